// Markdown of a model, drawn safely: HTML in it is shown as text, and what marked makes passes DOMPurify, which knows
// only what Markdown needs. Pictures become links, because loading one would tell its address to another server.

import DOMPurify from "../vendor/dompurify.js";
import { Marked } from "../vendor/marked.js";

const PLAIN_TAG = /^<\/?(?:br|sub|sup|kbd)\s*\/?>$/i; // harmless and common in tables and formulas
const TAGS = "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr input kbd li ol p pre strong sub sup table tbody td th thead tr ul";
const RULES = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "start", "title", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // A class of the model's would look like a part of the page.
  if (node.nodeName !== "CODE" || !/^language-[\w+#.-]{1,30}$/.test(node.className)) node.removeAttribute("class");
  if (node.nodeName === "INPUT") {
    node.setAttribute("type", "checkbox");
    node.setAttribute("disabled", "");
  }
});

const marked = new Marked({
  gfm: true,
  breaks: true, // a line end of a model is meant, and would put a blank between two Chinese characters
  renderer: {
    html: ({ text }) => (PLAIN_TAG.test(text.trim()) ? text : escaped(text)),
    image({ href, title, text }) {
      return this.link({ href, title, tokens: [{ type: "text", raw: text, text: text || href }] });
    },
  },
});

function escaped(text) {
  const safe = text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  return safe.trim().replace(/\n/g, "<br>");
}

/** Only what Markdown needs of a piece of HTML, as a document fragment. */
export function sanitized(html) {
  return purify.sanitize(html, RULES);
}

/** Draws a text that grows: blocks that did not change since are left as they are, selection and all. */
export class MarkdownView {
  /**
   * @param {HTMLElement} place is filled.
   * @param {(code: string) => HTMLElement} codeButton makes the button of a code block.
   */
  constructor(place, codeButton) {
    this.place = place;
    this.codeButton = codeButton;
    this.blocks = [];
  }

  /** Shows a text. `whole` draws every block anew: a definition at the end may change a link at the beginning. */
  show(text, whole = false) {
    const tokens = marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
    let same = 0;
    while (!whole && same < tokens.length && this.blocks[same] === tokens[same].raw) same += 1;
    while (this.place.children.length > same) this.place.lastElementChild.remove();
    for (const token of tokens.slice(same)) this.place.append(this.#drawn(token));
    this.blocks = tokens.map((token) => token.raw);
  }

  #drawn(token) {
    const block = document.createElement("div");
    block.append(sanitized(marked.parser([token])));
    for (const table of block.querySelectorAll("table")) wrapped(table, "wide");
    for (const pre of block.querySelectorAll("pre")) this.#frame(pre);
    return block;
  }

  /** A bar with language and button over a code block. */
  #frame(pre) {
    const code = pre.querySelector("code") ?? pre;
    const bar = document.createElement("div");
    bar.className = "code-bar";
    const name = document.createElement("span");
    name.textContent = code.className.replace("language-", "");
    bar.append(name, this.codeButton(code.textContent.replace(/\n$/, "")));
    wrapped(pre, "code").prepend(bar);
  }
}

function wrapped(node, className) {
  const frame = document.createElement("div");
  frame.className = className;
  node.replaceWith(frame);
  frame.append(node);
  return frame;
}
