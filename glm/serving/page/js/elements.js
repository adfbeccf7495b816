// Small helpers around the document.

/** An element with properties and children: element("button", { className: "x", onclick }, "text"). */
export function element(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset ?? {});
  made.append(...children);
  return made;
}

export function byId(name) {
  return document.getElementById(name);
}

/** Gives a text area the height of its text; the style sheet has the most. */
export function fitHeight(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** Puts a text on the clipboard. Throws where the browser does not let it. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Over plain HTTP from another machine there is no clipboard but this old way.
  const area = element("textarea", { value: text, className: "off-screen" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("copy was refused");
}

/** Offers a text to be saved as a file. */
export function saveFile(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Whether a key press is Enter of the one who writes, and not of an input method that is being told which word it is. */
export function isEnter(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
