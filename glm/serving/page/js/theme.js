// Runs before the page is drawn, so that a chosen theme does not flash; no module for that reason.
try {
  const chosen = JSON.parse(localStorage.getItem("glm.settings") ?? "{}").theme;
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing follows the system.
}
