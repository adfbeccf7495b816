// What the browser keeps: conversations, a key of localStorage each, so that two tabs do not overwrite each other's,
// and settings.

const PREFIX = "glm.conversation.";
const SETTINGS = "glm.settings";
const storage = own();
export const UNSET = {
  language: "",
  theme: "",
  key: "",
  system: "", // that the next conversation begins with
  temperature: null, // null is the model's own
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  max_tokens: null,
  seed: null,
  thinking: null,
  stopStrings: [],
  trim: false,
};

/**
 * @typedef {{role: "user" | "assistant", content: string, reasoning?: string, end?: string, usage?: object,
 *   first?: number, rate?: number}} Message
 *   `end`: stop, length, stopped or broken; `first`: seconds to the first token; `rate`: tokens a second after it.
 * @typedef {{id: string, changed: number, system: string, messages: Message[]}} Conversation
 */

/** A new conversation; it is kept once something was said. */
export function newConversation(settings) {
  // randomUUID exists over HTTPS and on this machine only.
  const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, changed: Date.now(), system: settings.system, messages: [] };
}

export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user")?.content.trim() ?? "";
  const line = first.split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** All conversations, the latest first. What cannot be read is left alone and not shown. */
export function conversations() {
  const names = Array.from({ length: storage?.length ?? 0 }, (_, place) => storage.key(place));
  const found = names.filter((name) => name.startsWith(PREFIX)).map((name) => read(name)).filter(isConversation);
  return found.sort((one, other) => other.changed - one.changed);
}

export function conversation(id) {
  const found = read(PREFIX + id);
  return isConversation(found) ? found : null;
}

/** Keeps a conversation. Throws where the browser has no room, or keeps nothing. */
export function keep(conversation) {
  storage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
}

export function forget(id) {
  storage?.removeItem(PREFIX + id);
}

/** The id of the conversation that a storage event is about, if it is about one. */
export function changedId(event) {
  return event.key?.startsWith(PREFIX) ? event.key.slice(PREFIX.length) : null;
}

export function settings() {
  return { ...UNSET, ...(read(SETTINGS) ?? {}) };
}

export function keepSettings(value) {
  storage.setItem(SETTINGS, JSON.stringify(value));
}

/** Conversations as rows of data: messages in OpenAI's form, or prompt and completion. */
export function exported(conversations, chats) {
  const rows = conversations.flatMap((each) => (chats ? [chatRow(each)] : completionRows(each)));
  return `${JSON.stringify(rows, null, 2)}\n`;
}

function chatRow({ system, messages }) {
  const first = system ? [{ role: "system", content: system }] : [];
  return { messages: [...first, ...messages.map(({ role, content }) => ({ role, content }))] };
}

function completionRows({ messages }) {
  const answers = messages.map((message, place) => ({ ...message, prompt: messages[place - 1]?.content }));
  return answers.filter(({ role }) => role === "assistant").map(({ prompt, content }) => ({ prompt, completion: content }));
}

function read(name) {
  try {
    return JSON.parse(storage?.getItem(name) ?? "null");
  } catch {
    return null;
  }
}

function isConversation(value) {
  return Array.isArray(value?.messages) && typeof value.id === "string";
}

/** Null where the browser is told to keep nothing. */
function own() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}
