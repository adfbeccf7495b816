// The drawer with options: what a request says beside its text. An empty field is left to the model.

import { byId, element } from "./elements.js";
import { completionTokens } from "./server.js";
import { say } from "./texts.js";
import { UNSET } from "./store.js";

// What the server takes (glm/serving/protocol.py): least, most, step of the arrows; step 1 is whole numbers.
const NUMBERS = {
  temperature: [0, 100, 0.1],
  top_p: [0, 1, 0.05],
  top_k: [0, 2 ** 31, 1],
  min_p: [0, 1, 0.01],
  repetition_penalty: [0.000001, 1000000, 0.05],
  max_tokens: [1, 2 ** 31, 1],
  seed: [0, Number.MAX_SAFE_INTEGER, 1],
};

export class Options {
  /**
   * @param {{changed: (settings: object) => void, system: (text: string) => void}} actions take what was typed.
   */
  constructor(settings, info, actions) {
    Object.assign(this, { settings, info, actions });
    this.fields = byId("option-fields");
  }

  /** Draws the fields; `system` is the system prompt of the conversation that is shown. */
  show(system) {
    const { chats, needs_key: needsKey } = this.info;
    const numbers = Object.keys(NUMBERS).map((name) => this.#number(name));
    this.fields.replaceChildren(
      ...(chats ? [this.#text("system", system, 4, (value) => this.actions.system(value))] : []),
      element("div", { className: "numbers" }, ...numbers),
      this.#text("stopStrings", this.settings.stopStrings.join("\n"), 2, (value) => this.#stops(value)),
      ...(this.info.thinking === null ? [] : [this.#thinking()]),
      ...(chats ? [this.#trim()] : []),
      this.#key(needsKey),
      element("button", { type: "button", className: "small", id: "reset", onclick: () => this.#reset() }, say("reset")),
    );
  }

  /** An error line for the first field whose value the server would refuse, or "". */
  get problem() {
    const wrong = [...this.fields.querySelectorAll(".numbers input")].find((input) => !input.validity.valid);
    if (!wrong) return "";
    return say("errorNumber", { name: say(wrong.name), least: wrong.min, most: wrong.max });
  }

  #number(name) {
    const [min, max, step] = NUMBERS[name];
    const value = this.settings[name] ?? "";
    // Whole numbers must be; of others the step is the arrows' alone.
    const input = element("input", { type: "number", id: `option-${name}`, name, min, max, value, placeholder: this.#default(name) });
    input.step = step === 1 ? 1 : "any";
    input.inputMode = step === 1 ? "numeric" : "decimal";
    input.oninput = () => {
      input.setAttribute("aria-invalid", String(!input.validity.valid));
      if (input.validity.valid) this.#set(name, input.value === "" ? null : input.valueAsNumber);
    };
    return this.#labelled(name, input, this.#tip(name));
  }

  #default(name) {
    if (name === "seed") return say("random");
    if (name === "max_tokens") return this.info.chats ? say("room") : String(completionTokens(this.info));
    return String(this.info.defaults[name]);
  }

  #tip(name) {
    const ownTip = name === "max_tokens" && !this.info.chats;
    return ownTip ? say("max_tokensTextTip", { tokens: completionTokens(this.info) }) : say(`${name}Tip`);
  }

  #text(name, value, rows, take) {
    const area = element("textarea", { id: `option-${name}`, value, rows, oninput: () => take(area.value) });
    return this.#labelled(name, area, say(`${name}Tip`));
  }

  #stops(value) {
    // The server takes sixteen.
    this.#set("stopStrings", value.split("\n").filter((line) => line !== "").slice(0, 16));
  }

  #thinking() {
    const box = element("input", { type: "checkbox", id: "option-thinking" });
    box.checked = this.settings.thinking ?? this.info.thinking;
    box.onchange = () => this.#set("thinking", box.checked);
    return element("label", { className: "check" }, box, say("thinking"));
  }

  #trim() {
    const box = element("input", { type: "checkbox", id: "option-trim", checked: this.settings.trim });
    box.onchange = () => this.#set("trim", box.checked);
    return element("label", { className: "check" }, box, say("trim"));
  }

  #key(needed) {
    const input = keyField(this.settings, (value) => this.#set("key", value));
    input.id = "option-key";
    return this.#labelled("key", input, say(needed ? "keyTip" : "keyFree"));
  }

  #labelled(name, field, tip) {
    const note = element("small", { id: `${field.id}-tip` }, tip);
    field.setAttribute("aria-describedby", note.id);
    return element("div", { className: "field" }, element("label", { htmlFor: field.id }, say(name)), field, note);
  }

  #set(name, value) {
    this.settings[name] = value;
    this.actions.changed(this.settings);
  }

  #reset() {
    const { language, theme, key } = this.settings;
    Object.assign(this.settings, UNSET, { language, theme, key });
    this.actions.changed(this.settings);
    this.actions.system("");
    this.show("");
  }
}

/** A field for the API key; browsers are asked not to take it for a password of theirs. */
export function keyField(settings, take) {
  const input = element("input", { type: "password", value: settings.key, autocomplete: "off", spellcheck: false });
  input.oninput = () => take(input.value.trim());
  return input;
}
