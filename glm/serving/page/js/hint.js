// What an empty conversation shows: what this model does, how, and something to begin with.

import { element } from "./elements.js";
import { keyField } from "./options.js";
import { language, say } from "./texts.js";

/** Fills `place`; `actions`: take(text) of an example, keepSettings(), openOptions(). */
export function drawHint(place, info, settings, { take, keepSettings, openOptions }) {
  const kind = info.chats ? "Chat" : "Text";
  const tokens = new Intl.NumberFormat(language() === "zh" ? "zh-CN" : "en").format(info.max_model_len);
  const values = { model: info.model, tokens };
  const names = info.chats ? ["example1", "example2", "example3"] : ["exampleText1", "exampleText2", "exampleText3"];
  const examples = names.map((name) => element("button", { type: "button", onclick: () => take(say(name)) }, say(name)));
  const toOptions = { type: "button", className: "plain", onclick: openOptions };
  place.replaceChildren(
    element("h2", {}, say(`hintTitle${kind}`, values)),
    element("p", {}, say(`hint${kind}`, values)),
    element("p", {}, element("button", toOptions, say(info.chats ? "hintOptions" : "hintOptionsText"))),
    ...(info.needs_key && !settings.key ? [keyLine(settings, keepSettings)] : []),
    element("div", { className: "examples" }, ...examples),
    element("p", { className: "quiet" }, say("hintKept")),
  );
}

function keyLine(settings, keepSettings) {
  const input = keyField(settings, (value) => {
    settings.key = value;
    keepSettings();
  });
  input.id = "hint-key";
  return element("div", { className: "field" }, element("label", { htmlFor: input.id }, say("hintKey")), input);
}
