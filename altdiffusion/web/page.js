// Run once when the page is there: keys, names for what a screen reader would find nameless, the language, which it returns.
() => {
  const visible = (element) => element && element.offsetParent !== null && !element.disabled;
  const press = (selector) => {
    const button = [...document.querySelectorAll(selector)].find(visible);
    if (button) button.click();
    return Boolean(button);
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && press("button.go, .go button")) event.preventDefault();
    const drawing = [...document.querySelectorAll(".status progress")].some((each) => each.offsetParent !== null);
    if (event.key === "Escape" && drawing) press("button.stop, .stop button");
  });

  // Gradio changes the language of what was registered with it (gr.I18n), and its own, by this function of its core module.
  // The module is loaded already: importing it again gives the same one, not a second.
  window.altdiffusionLanguage = async (language) => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    try { localStorage.setItem("altdiffusion-language", language); } catch (error) { /* no storage: the browser's language next time */ }
    const url = performance.getEntriesByType("resource").map((each) => each.name).find((each) => /\/assets\/core-[^/]*\.js$/.test(each));
    if (url) (await import(url)).changeLocale(language === "zh" ? "zh-CN" : "en");
    return language;
  };

  // The clipboard of today is for https and this machine alone; elsewhere the old way.
  window.altdiffusionCopy = (text) => {
    if (!text) return;
    if (navigator.clipboard) { navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  const label = () => {
    for (const button of document.querySelectorAll("button:not([aria-label])")) {
      if (!button.textContent.trim() && button.title) button.setAttribute("aria-label", button.title);
    }
  };
  label();
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });

  let language = null;
  try { language = localStorage.getItem("altdiffusion-language"); } catch (error) { /* no storage */ }
  return window.altdiffusionLanguage(language || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
}
