// Before the first paint: light or dark, as the person chose here, or as their system says.
(() => {
  const chosen = localStorage.getItem("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => document.documentElement.setAttribute("data-bs-theme", theme);
  apply(chosen || (system.matches ? "dark" : "light"));
  if (!chosen) system.addEventListener("change", () => apply(system.matches ? "dark" : "light"));
})();
