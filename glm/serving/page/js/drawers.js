// The two drawers: conversations on the left, options on the right. On a wide window the left one is always open.

import { byId } from "./elements.js";

let opener = null;

export function setUpDrawers() {
  for (const name of ["sidebar", "options"]) {
    byId(`open-${name}`).onclick = (event) => (isOpen(name) ? closeDrawer() : openDrawer(name, event.currentTarget));
    byId(name).querySelector(".close").onclick = closeDrawer;
  }
  byId("shade").onclick = closeDrawer;
}

export function openDrawer(name, from = document.activeElement) {
  opener = from;
  document.body.dataset.drawer = name;
  byId(`open-${name}`).setAttribute("aria-expanded", "true");
  byId(name).querySelector(".close").focus();
}

/** Closes what is open, and says whether something was. */
export function closeDrawer() {
  const { drawer } = document.body.dataset;
  if (!drawer) return false;
  delete document.body.dataset.drawer;
  byId(`open-${drawer}`).setAttribute("aria-expanded", "false");
  opener?.focus();
  return true;
}

function isOpen(name) {
  return document.body.dataset.drawer === name;
}
