// The page: wires conversations, the composer, options and the server.

import { closeDrawer, openDrawer, setUpDrawers } from "./drawers.js";
import { byId, element, fitHeight, isEnter, saveFile } from "./elements.js";
import { explained } from "./errors.js";
import { drawHint } from "./hint.js";
import { Options } from "./options.js";
import { pageInfo } from "./server.js";
import * as store from "./store.js";
import { language, say, translate, useLanguage } from "./texts.js";
import { ConversationView } from "./view.js";
import { Writing } from "./writing.js";

const settings = store.settings();
const question = byId("question");
const view = new ConversationView(byId("scroller"), byId("messages"), byId("to-end"), {
  again: () => writeAgain(),
  edited: (place, text) => ask(text, place),
  failed: (key) => showError(say(key)),
  busy: () => writing !== null,
});
let info = null;
let options = null;
let conversation = store.conversations()[0] ?? store.newConversation(settings);
let writing = null;
let retry = null;

async function start() {
  useLanguage(settings.language);
  setUpDrawers();
  setUpComposer();
  setUpSidebar();
  window.addEventListener("storage", changedElsewhere);
  window.addEventListener("pagehide", () => writing?.begun && keep(writing.conversation));
  document.addEventListener("keydown", escape);
  await connect();
}

/** Learns what the server has; without it nothing can be asked. */
async function connect() {
  try {
    info = await pageInfo();
    options = new Options(settings, info, { changed: keepSettings, system: setSystem });
  } catch (error) {
    showError(explained(error, true), connect);
  }
  draw();
}

// What is shown

function draw() {
  const model = info?.model ?? "GLM";
  document.title = store.titleOf(conversation) ? `${store.titleOf(conversation)} – ${model}` : model;
  byId("model").textContent = model;
  translate(document, { model });
  question.placeholder = say(info && !info.chats ? "composerText" : "composerChat", { model });
  question.setAttribute("aria-label", question.placeholder);
  for (const name of ["export", "export-all"]) byId(name).title = say(info && !info.chats ? "exportTextTip" : "exportTip");
  byId("language").value = language();
  byId("theme").value = settings.theme;
  options?.show(conversation.system);
  drawConversation();
}

function drawConversation() {
  const empty = !conversation.messages.length && !writing;
  byId("hint").hidden = !empty || !info;
  if (empty && info) drawHint(byId("hint"), info, settings, { take: fillIn, keepSettings, openOptions: () => openDrawer("options") });
  byId("export").hidden = !conversation.messages.length;
  view.show(conversation, writing?.conversation === conversation ? writing : null);
  drawList();
  drawComposer();
}

function drawList() {
  byId("conversations").replaceChildren(...store.conversations().map(listEntry));
  byId("export-all").disabled = !byId("conversations").children.length;
}

function listEntry(each) {
  const title = store.titleOf(each) || say("untitled");
  const isShown = each.id === conversation.id;
  const name = element("button", { type: "button", className: "name", title, onclick: () => open(each.id) }, title);
  name.setAttribute("aria-current", String(isShown));
  const remove = element("button", { type: "button", className: "icon remove", onclick: () => removeConversation(each) }, "✕");
  remove.title = say("deleteConversation");
  remove.setAttribute("aria-label", `${remove.title}: ${title}`);
  return element("li", { className: isShown ? "shown" : "" }, name, remove);
}

function drawComposer() {
  byId("send").hidden = writing !== null;
  byId("stop").hidden = writing === null;
  byId("send").disabled = !info || !question.value.trim();
}

function showError(text, again = null) {
  const line = byId("error");
  line.querySelector("span").textContent = text;
  line.hidden = !text;
  retry = again;
  byId("try-again").hidden = !again;
}

// Asking

/** Asks the question of the composer, or at `place` instead of the message that stands there. */
function ask(text, place = conversation.messages.length) {
  if (writing || !info) return;
  const { messages } = conversation;
  const dropped = messages.splice(place);
  messages.push({ role: "user", content: text });
  const undo = () => {
    messages.splice(place, 1, ...dropped);
    // Where nothing came, the question is the composer's again.
    if (!dropped.length) fillIn([text, question.value].filter(Boolean).join("\n"));
  };
  write(undo, dropped.length ? () => ask(text, place) : send);
}

function writeAgain() {
  if (writing || !info) return;
  const { messages } = conversation;
  const old = messages.pop();
  write(() => messages.push(old), writeAgain);
}

/** Writes the answer to the last message; where nothing came, `undo` makes the conversation what it was. */
async function write(undo, again) {
  const asked = conversation;
  if (options.problem) {
    undo();
    drawConversation();
    showError(options.problem);
    return;
  }
  showError("");
  const keepAsked = () => {
    keep(asked);
    drawList();
  };
  const current = new Writing(asked, settings, info, { changed: () => shownUpdate(asked), keep: keepAsked });
  writing = current;
  drawConversation();
  try {
    await current.run();
  } catch (error) {
    showError(explained(error, info.chats), current.begun ? null : again);
    if (error.code === "invalid_api_key") {
      openDrawer("options", question);
      byId("option-key").focus();
    }
  }
  writing = null;
  if (!current.begun) undo();
  drawAfter(asked);
}

function shownUpdate(asked) {
  if (asked === conversation) view.update();
}

function drawAfter(asked) {
  if (asked === conversation) drawConversation();
  drawList();
  drawComposer();
}

function send() {
  const text = question.value;
  if (!text.trim() || writing || !info) return;
  fillIn("");
  ask(text);
}

function fillIn(text) {
  question.value = text;
  fitHeight(question);
  drawComposer();
  question.focus();
}

function setUpComposer() {
  question.oninput = () => {
    fitHeight(question);
    drawComposer();
  };
  question.onkeydown = (event) => {
    if (!isEnter(event)) return;
    event.preventDefault();
    send();
  };
  byId("send").onclick = send;
  byId("stop").onclick = () => writing?.stop();
  byId("dismiss").onclick = () => showError("");
  byId("try-again").onclick = () => {
    const again = retry;
    showError("");
    again?.();
  };
}

function escape(event) {
  if (event.key !== "Escape" || event.isComposing || event.defaultPrevented) return;
  if (!closeDrawer()) writing?.stop();
}

// Conversations

function open(id) {
  const found = writing?.conversation.id === id ? writing.conversation : store.conversation(id);
  if (found) conversation = found;
  closeDrawer();
  showError("");
  draw();
  question.focus();
}

function startConversation() {
  conversation = store.newConversation(settings);
  closeDrawer();
  showError("");
  draw();
  question.focus();
}

function removeConversation(each) {
  if (!window.confirm(say("confirmDelete", { title: store.titleOf(each) || say("untitled") }))) return;
  if (writing?.conversation.id === each.id) {
    writing.keep = () => {}; // it is not to come back
    writing.stop();
  }
  store.forget(each.id);
  if (conversation.id === each.id) conversation = store.newConversation(settings);
  draw();
}

/** Another tab changed what is kept. */
function changedElsewhere(event) {
  const id = store.changedId(event);
  const isShown = id === conversation.id && writing?.conversation !== conversation;
  if (isShown) conversation = store.conversation(id) ?? store.newConversation(settings);
  if (isShown) draw();
  else drawList();
}

function keep(each) {
  try {
    store.keep(each);
  } catch {
    showError(say("errorFull"));
  }
}

function exportConversations(which, name) {
  saveFile(`${name.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}.json`, store.exported(which, info?.chats ?? true));
}

function setUpSidebar() {
  byId("new").onclick = startConversation;
  byId("export").onclick = () => exportConversations([conversation], store.titleOf(conversation));
  byId("export-all").onclick = () => exportConversations(store.conversations(), say("conversations"));
  byId("language").onchange = (event) => {
    settings.language = event.target.value;
    useLanguage(settings.language);
    keepSettings();
    draw();
  };
  byId("theme").onchange = (event) => {
    settings.theme = event.target.value;
    if (settings.theme) document.documentElement.dataset.theme = settings.theme;
    else delete document.documentElement.dataset.theme;
    keepSettings();
  };
}

function keepSettings() {
  try {
    store.keepSettings(settings);
  } catch {
    showError(say("errorFull"));
  }
}

function setSystem(text) {
  conversation.system = text;
  settings.system = text;
  keepSettings();
  if (conversation.messages.length) keep(conversation);
}

start();
