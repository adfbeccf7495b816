// What went wrong, in the reader's language where the page knows it, else in the server's words.

import { say } from "./texts.js";

const KEYS = {
  offline: "errorOffline",
  broken: "errorBroken",
  invalid_api_key: "errorKey",
  queue_full: "errorBusy",
  loading: "errorLoading",
  shutting_down: "errorEnding",
};

/** One line about an error; `chats` says whether older turns could be forgotten. */
export function explained(error, chats) {
  if (error.code === "context_length_exceeded") {
    return say(chats ? "errorLong" : "errorLongText", { message: error.message });
  }
  return error.code in KEYS ? say(KEYS[error.code], { host: location.host }) : error.message;
}
