// What moves on the pages. Everything works without it, but for copying and what updates by itself.
"use strict";
(() => {
  const say = (words, bad) => {
    const toast = document.getElementById("toast");
    if (!toast) return;
    const note = document.createElement("div");
    note.className = bad ? "flash bad" : "flash";
    note.textContent = words;
    toast.replaceChildren(note);
    setTimeout(() => note.remove(), 6000);
  };

  // A form that was sent waits: a second click does nothing (the server would not mind one).
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.dataset.confirmed === "no") return;
    const everything = form.querySelector('[name="scope"]')?.checked && event.submitter?.dataset.confirmAll;
    const question = form.dataset.confirm || everything;
    if (question && !window.confirm(question)) {
      event.preventDefault();
      return;
    }
    if (form.method !== "post" || form.getAttribute("aria-busy") === "true") {
      if (form.method === "post") event.preventDefault();
      return;
    }
    form.setAttribute("aria-busy", "true");
  });
  window.addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[aria-busy]")) form.removeAttribute("aria-busy");
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) {
      const text = document.getElementById(button.dataset.copy).textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 3000);
    }
    const menu = event.target.closest("[data-menu]");
    if (menu) {
      const side = document.getElementById("menu");
      const open = side.classList.toggle("open");
      menu.setAttribute("aria-expanded", String(open));
      event.preventDefault();
      if (open) {
        scrollTo(0, 0);
        side.querySelector("summary, a:not(.brand)").focus();
      }
    }
  });

  // A choice that applies at once, where there is a script; without one a button applies it. By keyboard each arrow
  // chooses: then it applies with Enter, or when the field is left.
  let key = "";
  document.addEventListener("pointerdown", () => { key = ""; });
  document.addEventListener("keydown", (event) => {
    key = event.key;
    if (key !== "Enter" || !event.target.matches("[data-chosen]")) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  });
  document.addEventListener("focusout", (event) => {
    if (event.target.matches("[data-chosen]")) event.target.form.requestSubmit();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) {
      if (key && key !== "Enter") event.target.dataset.chosen = "";
      else event.target.form.requestSubmit();
    }
    const all = event.target.closest("[data-check-all]");
    if (all) {
      for (const box of all.form.querySelectorAll('input[name="id"]')) box.checked = all.checked;
    }
  });
  for (const once of document.querySelectorAll("[data-without-script]")) once.hidden = true;
  for (const with_script of document.querySelectorAll("[data-with-script]")) with_script.hidden = false;

  // Single keys, where nobody is writing: elements say which with data-key.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    for (const found of document.querySelectorAll("[data-key]")) {
      if (found.dataset.key !== event.key || found.disabled) continue;
      event.preventDefault();
      if (found.matches("input, textarea, select")) found.focus();
      else found.click();
      return;
    }
  });

  // Times grow old while a page stays open.
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
  const age = (time) => {
    const seconds = Math.floor((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (seconds < 2) return "just now";
    const [length, unit] = units.find(([one]) => seconds >= one);
    const count = Math.floor(seconds / length);
    return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"} ago`;
  };
  setInterval(() => {
    for (const time of document.querySelectorAll("time")) if (time.textContent.endsWith(" ago") || time.textContent === "just now") time.textContent = age(time);
  }, 15000);

  // A page that nobody looks at asks for nothing.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && !event.detail.requestConfig.triggeringEvent) event.preventDefault();
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status !== 401) say("This part of the page could not be updated. It is tried again.", true);
  });
  document.addEventListener("htmx:sendError", () => say("The service cannot be reached just now.", true));
})();
