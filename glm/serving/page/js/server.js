// What the page asks of the server: OpenAI's interface by fetch, and what it must know before.

const COMPLETION_TOKENS = 256; // of a text where nothing is said; the interface's own 16 is a line
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

/** An error that the server told, or one on the way to it (`code` offline or broken). */
export class ServerError extends Error {
  constructor(message, code = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

/** {model, chats, max_model_len, needs_key, version, thinking, defaults}: see glm/serving/web_page.py. */
export async function pageInfo() {
  const answer = await reached("/page.json");
  if (!answer.ok) throw await errorOf(answer);
  return answer.json();
}

/** Most tokens of a completion where the settings have none. */
export function completionTokens(info) {
  return Math.max(1, Math.min(COMPLETION_TOKENS, Math.floor(info.max_model_len / 2)));
}

/** Path and body of the request for the answer to a conversation's last message. */
export function requestOf(conversation, settings, info) {
  const usage = { include_usage: true, continuous_usage_stats: true };
  const body = { model: info.model, stream: true, stream_options: usage };
  for (const name of NUMBERS) if (settings[name] !== null) body[name] = settings[name];
  if (settings.stopStrings.length) body.stop = settings.stopStrings;
  if (!info.chats) {
    body.prompt = conversation.messages.at(-1).content;
    body.max_tokens ??= completionTokens(info);
    return ["/v1/completions", body];
  }
  const system = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  body.messages = [...system, ...conversation.messages.map(({ role, content }) => ({ role, content }))];
  if (info.thinking !== null && settings.thinking !== null) {
    body.chat_template_kwargs = { enable_thinking: settings.thinking };
  }
  if (settings.trim) {
    const answer = settings.max_tokens ?? Math.floor(info.max_model_len / 4);
    body.truncate_prompt_tokens = Math.max(1, info.max_model_len - answer);
  }
  return ["/v1/chat/completions", body];
}

/**
 * An answer in pieces, each {text, reasoning, end, usage}; what a piece does not tell is "" or null.
 * Throws ServerError, or AbortError after signal.
 */
export async function* pieces(path, body, key, signal) {
  const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await reached(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw await errorOf(answer);
  for await (const data of events(chunksOf(answer.body))) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code ?? "");
    const choice = chunk.choices[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    const reasoning = choice?.delta?.reasoning_content ?? "";
    yield { text, reasoning, end: choice?.finish_reason ?? null, usage: chunk.usage ?? null };
  }
  throw new ServerError("", "broken"); // a stream that just ends is no whole answer
}

/** The data of each server-sent event of a stream of bytes, however it is cut into chunks. */
export async function* events(chunks) {
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  for await (const chunk of chunks) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split(/\r\n|\n|\r(?!$)/); // a "\r" at the end may be half a line end
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function* chunksOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("", "broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("", "offline");
  }
}

async function errorOf(answer) {
  const body = await answer.json().catch(() => ({}));
  const message = body.error?.message ?? `${answer.status} ${answer.statusText}`; // a proxy's own page
  return new ServerError(message, body.error?.code ?? "", answer.status);
}
