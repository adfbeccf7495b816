// A conversation as it is seen: its messages, the answer that is being written, and what can be done with each.

import { copyText, element, fitHeight, isEnter } from "./elements.js";
import { MarkdownView } from "./markdown.js";
import { language, say } from "./texts.js";

const END_DISTANCE = 60; // px from the end within which the view follows a growing answer

export class ConversationView {
  /**
   * @param {HTMLElement} scroller holds the list, which holds the messages.
   * @param {{again: () => void, edited: (place: number, text: string) => void, failed: (key: string) => void,
   *   busy: () => boolean}} actions
   */
  constructor(scroller, list, toEnd, actions) {
    Object.assign(this, { scroller, list, toEnd, actions });
    this.writing = null;
    this.frame = 0;
    scroller.addEventListener("scroll", () => this.#showToEnd(), { passive: true });
    new ResizeObserver(() => this.#showToEnd()).observe(scroller);
    toEnd.onclick = () => this.scrollToEnd();
  }

  /** Shows a conversation whole, and its unfinished answer, if it has one. */
  show(conversation, writing) {
    const asks = Boolean(writing && !writing.begun);
    const stays = conversation === this.conversation && !asks && !this.#atEnd();
    const { scrollTop } = this.scroller;
    this.conversation = conversation;
    this.writing = writing;
    this.last = null;
    this.list.replaceChildren(...conversation.messages.map((message, place) => this.#message(message, place)));
    if (asks) this.list.append(this.#pending());
    this.list.setAttribute("aria-busy", String(Boolean(writing)));
    if (stays) this.scroller.scrollTop = scrollTop;
    else this.scrollToEnd();
  }

  /** Shows what is new of the answer that is being written, once a frame at most. */
  update() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      if (this.writing) this.#grow();
    });
  }

  scrollToEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#showToEnd();
  }

  #grow() {
    const follows = this.#atEnd();
    const { message } = this.writing;
    if (this.last?.message !== message) {
      this.list.querySelector(".pending")?.remove();
      this.list.append(this.#message(message, this.conversation.messages.length - 1));
    } else {
      this.last.draw(false);
    }
    if (follows) this.scrollToEnd();
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < END_DISTANCE;
  }

  #showToEnd() {
    this.toEnd.hidden = this.#atEnd();
  }

  #pending() {
    return element("article", { className: "message assistant pending" }, element("p", { className: "stats" }, say("reading")));
  }

  #message(message, place) {
    const body = element("div", { className: "body", dir: "auto" });
    const foot = element("div", { className: "foot" });
    const article = element("article", { className: `message ${message.role}` }, body, foot);
    if (message.role === "user") {
      body.textContent = message.content;
      foot.append(this.#button("edit", () => this.#edit(article, message, place)), this.#copyButton(() => message.content));
    } else {
      this.#answer(message, place, article, body, foot);
    }
    return article;
  }

  #answer(message, place, article, body, foot) {
    const thoughts = element("div", { className: "body" });
    const fold = element("details", { className: "thoughts" }, element("summary", {}, say("thoughts")), thoughts);
    const stats = element("span", { className: "stats" });
    const latest = place === this.conversation.messages.length - 1;
    foot.append(this.#copyButton(() => message.content), ...(latest ? [this.#button("again", () => this.actions.again())] : []), stats);
    const views = [body, thoughts].map((where) => new MarkdownView(where, (code) => this.#copyButton(() => code)));
    const draw = (whole) => {
      if (message.reasoning) body.before(fold);
      views[0].show(message.content, whole);
      views[1].show(message.reasoning ?? "", whole);
      stats.textContent = statistics(message);
      stats.title = tip(message);
    };
    this.last = { message, draw };
    article.classList.toggle("growing", this.writing?.message === message);
    draw(true);
  }

  /** A user's message becomes a text area; what came after it is asked anew. */
  #edit(article, message, place) {
    if (this.actions.busy()) return;
    const area = element("textarea", { value: message.content, rows: 1, ariaLabel: say("edit") });
    const close = () => article.replaceWith(this.#message(message, place));
    const save = () => (area.value.trim() ? this.actions.edited(place, area.value) : close());
    area.oninput = () => fitHeight(area);
    area.onkeydown = (event) => {
      if (isEnter(event)) save();
      if (event.key === "Escape" && !event.isComposing) close();
      if (isEnter(event) || event.key === "Escape") event.preventDefault();
    };
    const buttons = element("div", { className: "foot" }, this.#button("save", save, "first"), this.#button("cancel", close));
    article.classList.add("editing");
    article.replaceChildren(area, buttons);
    fitHeight(area);
    area.focus();
  }

  #button(key, onclick, className = "") {
    return element("button", { type: "button", className: `small ${className}`, dataset: { action: key }, onclick }, say(key));
  }

  #copyButton(textOf) {
    const button = this.#button("copy", async () => {
      try {
        await copyText(textOf());
      } catch {
        this.actions.failed("errorCopy");
        return;
      }
      button.textContent = say("copied");
      setTimeout(() => (button.textContent = say("copy")), 1500);
    });
    return button;
  }
}

function statistics({ usage, rate, first, end }) {
  const number = new Intl.NumberFormat(language() === "zh" ? "zh-CN" : "en", { maximumFractionDigits: 1 });
  const parts = [];
  if (usage) parts.push(say("statsTokens", { tokens: number.format(usage.completion_tokens) }));
  if (rate) parts.push(say("statsRate", { rate: number.format(rate) }));
  if (first !== undefined) parts.push(say("statsFirst", { seconds: first.toFixed(2) }));
  if (end === "length") parts.push(say("cut"));
  if (end === "stopped" || end === "broken") parts.push(say(end));
  return parts.join(" · ");
}

function tip({ usage }) {
  if (!usage) return "";
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  return say("statsTip", { prompt: usage.prompt_tokens, cached });
}
