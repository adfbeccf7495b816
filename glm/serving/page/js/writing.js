// One answer while it is written: what it says so far, how fast, and how it ends.

import { pieces, requestOf, ServerError } from "./server.js";

const KEEP_EVERY = 1000; // ms between two times that an unfinished answer is kept

/**
 * The answer to the last message of a conversation. It becomes a message of it with its first piece; without one the
 * conversation stays as it was.
 */
export class Writing {
  /**
   * @param {() => void} changed is called when there is something new to show.
   * @param {() => void} keep is called now and then, to keep the conversation, and at the end.
   */
  constructor(conversation, settings, info, { changed, keep }) {
    this.conversation = conversation;
    this.changed = changed;
    this.keep = keep;
    this.message = { role: "assistant", content: "", reasoning: "" };
    this.finished = false;
    this.#controller = new AbortController();
    this.#request = [...requestOf(conversation, settings, info), settings.key];
  }

  #controller;
  #request;
  #keptAt = -KEEP_EVERY; // the first piece is kept at once, so that the conversation is in the list
  #firstAt = 0;
  #firstTokens = 0;

  /** Whether a piece has come. */
  get begun() {
    return this.#firstAt > 0;
  }

  stop() {
    this.#controller.abort();
  }

  /** Runs to the end. Throws ServerError where the answer failed; what had come is kept. */
  async run() {
    const started = performance.now();
    try {
      for await (const piece of pieces(...this.#request, this.#controller.signal)) this.#take(piece, started);
      this.message.end ??= "broken";
    } catch (error) {
      this.message.end = error.name === "AbortError" ? "stopped" : "broken";
      if (error.name !== "AbortError") throw error instanceof ServerError ? error : new ServerError(String(error));
    } finally {
      this.finished = true;
      if (this.begun) this.keep();
    }
  }

  #take({ text, reasoning, end, usage }, started) {
    if (!text && !reasoning && !end && !usage?.completion_tokens) return; // the head of a stream
    const now = performance.now();
    if (!this.begun) this.#begin(now, started, usage);
    this.message.content += text;
    this.message.reasoning += reasoning;
    this.message.end = end ?? this.message.end;
    if (usage) this.#count(usage, now);
    if (now - this.#keptAt > KEEP_EVERY) {
      this.#keptAt = now;
      this.keep();
    }
    this.changed();
  }

  #begin(now, started, usage) {
    this.#firstAt = now;
    this.#firstTokens = usage?.completion_tokens ?? 1;
    this.message.first = (now - started) / 1000;
    this.conversation.messages.push(this.message);
    this.conversation.changed = Date.now();
  }

  /** Tokens a second, the first ones left out: their time was the prompt's. */
  #count(usage, now) {
    const more = usage.completion_tokens - this.#firstTokens;
    this.message.usage = usage;
    if (more > 0 && now > this.#firstAt && !this.message.end) this.message.rate = (more * 1000) / (now - this.#firstAt);
  }
}
