"use strict";
// What pages do in the browser beside links and forms. Every element that this looks for is
// optional: a page has what it needs.

// Times are written for whoever reads them: in the browser's zone, and in the language that it asks for; days
// are those of the account's zone whoever reads them.
const language = document.documentElement.dataset.language || undefined;
const number = new Intl.NumberFormat(language);
const moment = new Intl.DateTimeFormat(language, {dateStyle: "medium", timeStyle: "medium"}), onPaper = new Intl.DateTimeFormat(language, {dateStyle: "medium", timeStyle: "long"});
const day = new Intl.DateTimeFormat(language, {dateStyle: "medium", timeZone: "UTC"}), month = new Intl.DateTimeFormat(language, {month: "long", year: "numeric", timeZone: "UTC"});
const shortDay = new Intl.DateTimeFormat(language, {month: "short", day: "numeric", timeZone: "UTC"}), shortMonth = new Intl.DateTimeFormat(language, {month: "short", year: "numeric", timeZone: "UTC"});
function localise(root) {
  for (const time of root.querySelectorAll("time[data-day], time[data-month]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) { time.title = time.dateTime; time.textContent = ("day" in time.dataset ? day : month).format(at); }
  }
  for (const time of root.querySelectorAll("time[data-time][datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) { time.title = time.textContent; time.textContent = moment.format(at); }
  }
  for (const text of root.querySelectorAll("text[data-short-day]")) text.textContent = shortDay.format(new Date(text.dataset.shortDay));
  for (const text of root.querySelectorAll("text[data-short-month]")) text.textContent = shortMonth.format(new Date(text.dataset.shortMonth));
  for (const time of root.querySelectorAll("time[data-made]")) time.textContent = onPaper.format(new Date(time.dateTime));
  tick(root);
}

// How long something has been going on, as a stopwatch shows it.
function tick(root) {
  const now = Date.now();
  for (const time of root.querySelectorAll("time[data-elapsed]")) {
    const began = Date.parse(time.dataset.elapsed);
    if (isNaN(began)) { time.textContent = ""; continue; }
    const s = Math.max(0, Math.floor((now - began) / 1000));
    const pad = (n) => String(n).padStart(2, "0");
    time.title ||= moment.format(new Date(began));
    time.textContent = Math.floor(s / 3600) + ":" + pad(Math.floor(s / 60) % 60) + ":" + pad(s % 60);
  }
}

// The live table: the page came with everything in it; the stream says what changes.
function follow(card) {
  const table = card.querySelector("[data-live-table]"), state = card.querySelector("[data-live-state]");
  const empty = card.querySelector("[data-live-empty]"), find = card.querySelector("[data-find]");
  const bodies = () => [...table.tBodies];
  const shown = () => { empty.hidden = bodies().length > 0; };
  const match = (body) => {
    const wanted = find.value.trim().toLowerCase();
    for (const row of body.rows) row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
  };
  find.value = new URLSearchParams(location.search).get("find") || "";
  bodies().forEach(match);
  find.addEventListener("input", () => { bodies().forEach(match); remember("find", find.value.trim()); });
  const source = new EventSource(card.dataset.live + location.search);
  source.onopen = () => { state.textContent = "Live"; };
  source.onerror = () => {
    state.textContent = "Not connected: trying again …";
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000); // signed out meanwhile, say
  };
  source.addEventListener("all", (event) => {
    const there = new Set(JSON.parse(event.data));
    for (const body of bodies()) if (!there.has(body.dataset.session)) body.remove();
    shown();
  });
  source.addEventListener("session", (event) => {
    const {id, html} = JSON.parse(event.data), old = document.getElementById("session-" + id);
    if (!html) { old?.remove(); shown(); return; }
    const holder = document.createElement("table");
    holder.innerHTML = html;
    const body = holder.tBodies[0];
    if (old) old.replaceWith(body); else table.append(body);
    match(body);
    tick(body);
    shown();
  });
}

// A table that is wider than its card says so, and can be scrolled by keyboard; one that is not needs no stop there.
function widths(root) {
  for (const place of root.querySelectorAll(".table-responsive")) {
    const look = () => {
      const beyond = place.scrollWidth - place.clientWidth;
      place.toggleAttribute("data-wide", beyond > 1);
      place.toggleAttribute("data-more", place.scrollLeft < beyond - 1);
      if (beyond > 1) place.tabIndex = 0; else place.removeAttribute("tabindex");
    };
    const sizes = new ResizeObserver(look);
    sizes.observe(place);
    sizes.observe(place.querySelector("table"));
    place.addEventListener("scroll", look, {passive: true});
  }
}

// What was, what is expected, and between which bounds.
function forecastSeries(data, colour, ink) {
  const ahead = data.days.slice(data.peaks.length);
  const line = (name, values, more) => ({name, type: "line", symbol: "none", data: ahead.map((day, i) => [day, values[i]]), ...more});
  return [
    {name: "Most at once", type: "bar", color: colour("--cetrus-busy"), data: data.peaks.map((peak, i) => [data.days[i], peak]), large: true},
    line("Low", data.low, {stack: "bounds", lineStyle: {width: 0}, color: ink}),
    line("High", data.high.map((high, i) => high - data.low[i]), {stack: "bounds", lineStyle: {width: 0}, areaStyle: {opacity: 0.25}, color: colour("--cetrus-idle")}),
    line("Expected", data.expected, {color: ink, lineStyle: {width: 1.5}}),
  ];
}

// Wherever a page says in which zone its times are, that is the reader's.
const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
for (const zone of document.querySelectorAll("[data-here]")) if (here && zone.dataset.here !== here) zone.textContent = "your time zone, " + here;

// Below a timeline stand round times of the reader's zone.
const second = 1000, minute = 60 * second, hour = 60 * minute;
function ticks(begin, end) {
  const whole = end - begin, all = [], from = new Date(begin);
  const step = [second, 5 * second, 15 * second, minute, 5 * minute, 15 * minute, hour, 3 * hour, 6 * hour].find((step) => whole / step <= 8);
  if (step) {
    const midnight = new Date(from.getFullYear(), from.getMonth(), from.getDate()).getTime();
    const clock = new Intl.DateTimeFormat(language, {hour: "numeric", minute: "2-digit", second: step < minute ? "2-digit" : undefined});
    for (let at = midnight + Math.floor((begin - midnight) / step) * step; at < end; at += step) all.push([at, clock.format(at)]);
    return all;
  }
  let days = Math.max(1, Math.floor(whole / (24 * hour) / 8));
  if (days > 20) {
    const name = new Intl.DateTimeFormat(language, {month: "short", year: "numeric"});
    for (let i = 0, at; (at = new Date(from.getFullYear(), from.getMonth() + i, 1)) < end; i += Math.max(1, Math.floor(days / 30))) all.push([at.getTime(), name.format(at)]);
    return all;
  }
  if (days > 1) days = Math.ceil(days / 7) * 7;
  const name = new Intl.DateTimeFormat(language, {day: "numeric", month: "short"});
  for (let i = 0, at; (at = new Date(from.getFullYear(), from.getMonth(), from.getDate() + i)) < end; i += days) all.push([at.getTime(), name.format(at)]);
  return all;
}
for (const axis of document.querySelectorAll("[data-axis-begin]")) {
  const begin = Date.parse(axis.dataset.axisBegin), end = Date.parse(axis.dataset.axisEnd);
  if (!(begin < end)) continue;
  const part = (name, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  axis.replaceChildren(...ticks(begin, end).flatMap(([at, text]) => {
    const share = (at - begin) / (end - begin), x = (100 * share).toFixed(2) + "%";
    return share >= 0 && share < 0.96 ? [part("line", {x1: x, x2: x, y1: 0, y2: 5}), part("text", {x, y: 17}, text)] : [];
  }));
}
for (const bar of document.querySelectorAll("a[data-begin]")) {
  const times = [bar.dataset.begin, bar.dataset.end];
  const label = bar.getAttribute("aria-label").replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, () => moment.format(new Date(times.shift())));
  bar.setAttribute("aria-label", label);
  bar.querySelector("title").textContent = label;
}

// Charts take their colours from the page, and are drawn again when these change.
function draw(place) {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const chart = echarts.init(place, null, {renderer: "svg"});
  const [start, end] = (new URLSearchParams(location.search).get("zoom") || "").split("-").map(Number); // in hundredths of the period
  let zoom = start < end && start >= 0 && end <= 100 ? {start, end} : {};
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const render = () => {
    const ink = colour("--tblr-body-color"), faint = colour("--tblr-border-color");
    const date = new Intl.DateTimeFormat(language, {month: "short", day: "numeric"}), clock = new Intl.DateTimeFormat(language, {hour: "numeric", minute: "2-digit"});
    const axis = {type: "time", axisLabel: {color: ink, hideOverlap: true, formatter: (ms) => { const at = new Date(ms); return at.getHours() || at.getMinutes() ? clock.format(at) : date.format(at); }}};
    const amount = {type: "value", minInterval: 1, axisLabel: {color: ink, formatter: (n) => number.format(n)}, splitLine: {lineStyle: {color: faint}}};
    if (place.dataset.chart === "forecast") {
      chart.setOption({
        animation: false, textStyle: {fontFamily: "inherit", color: ink},
        legend: {textStyle: {color: ink}, top: 0, data: ["Most at once", "Expected"]}, grid: {left: 48, right: 16, top: 40, bottom: 32},
        xAxis: axis, yAxis: amount,
        series: forecastSeries(data, colour, ink),
      }, true);
      return;
    }
    const line = (name, values, fill) => ({
      name, type: "line", stack: "open", step: "end", symbol: "none", sampling: "max", lineStyle: {width: 0}, areaStyle: {opacity: 1}, color: fill,
      data: data.times.map((t, i) => [t, (values || [])[i] || 0]),
    });
    const series = [line("Active", data.active, colour("--cetrus-busy")), line("Inactive", data.inactive, colour("--cetrus-idle")), line("Timeout", data.timedOut, colour("--cetrus-timeout"))];
    if (data.givenBack) series.push({name: "If given back", type: "line", step: "end", symbol: "none", color: ink, lineStyle: {width: 1.5}, data: data.times.map((t, i) => [t, data.givenBack[i]])});
    chart.setOption({
      animation: false, textStyle: {fontFamily: "inherit", color: ink},
      legend: {textStyle: {color: ink}, top: 0}, grid: {left: 48, right: 16, top: 40, bottom: 88},
      tooltip: {trigger: "axis", renderMode: "richText"},
      xAxis: axis, yAxis: amount,
      dataZoom: [{type: "inside", ...zoom}, {type: "slider", textStyle: {color: ink}, ...zoom}], series,
    }, true);
  };
  render();
  chart.on("datazoom", () => {
    const {start, end} = chart.getOption().dataZoom[0];
    zoom = {start, end};
    remember("zoom", start > 0 || end < 100 ? start.toFixed(1) + "-" + end.toFixed(1) : "");
  });
  new ResizeObserver(() => { if (place.clientWidth) chart.resize(); }).observe(place);
  new MutationObserver(render).observe(document.documentElement, {attributes: true, attributeFilter: ["data-bs-theme"]});
}

// Sliders: the page came with the answer for every minute.
function slide(card) {
  const points = JSON.parse(card.querySelector("script").textContent), input = card.querySelector("input");
  const show = () => {
    card.querySelector("[data-slider-minutes]").textContent = input.value;
    for (const [name, text] of Object.entries(points[input.value - 1])) card.querySelector("[data-slider-" + name + "]").textContent = text;
  };
  input.addEventListener("input", show);
  input.addEventListener("change", () => remember(input.name, input.value));
  show();
}

// What is chosen on a page without asking for another stands in its address too: it can be kept, and
// given to somebody else.
function remember(name, value) {
  const address = new URL(location.href);
  if (value) address.searchParams.set(name, value); else address.searchParams.delete(name);
  history.replaceState(history.state, "", address);
}

// A passkey answers a challenge, the one that stands at the button or a new one; the form is sent with
// its answer in place of what else would have to be typed.
async function passkey(button) {
  const form = button.form;
  let theirs = "";
  button.disabled = true;
  try {
    let challenge = button.dataset.challenge;
    if (!challenge) {
      const answer = await fetch("/sign-in/challenge", {method: "POST"});
      challenge = await answer.text();
      if (!answer.ok) throw new Error(challenge);
    }
    const {challenge_token, options} = JSON.parse(challenge);
    theirs = options.publicKey.rpId || options.publicKey.rp?.id;
    const credential = button.dataset.signIn === "create"
      ? await navigator.credentials.create({publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options.publicKey)})
      : await navigator.credentials.get({publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options.publicKey)});
    form.elements.passkey.value = JSON.stringify({challenge_token, credential: credential.toJSON()});
    form.elements.alone.value = "alone" in button.dataset ? "true" : "";
    form.noValidate = true;
    form.requestSubmit();
  } catch (e) {
    const said = form.querySelector("[data-sign-in-said]");
    said.textContent = {
      NotAllowedError: "No passkey was used: it was refused, took too long, or there is none here.",
      InvalidStateError: "This device has a passkey of yours already.",
      SecurityError: "Passkeys of this Cetrus are for " + theirs + ": open it by that name.",
    }[e.name] || e.message;
    said.hidden = false;
  } finally {
    form.noValidate = false;
    button.disabled = false;
  }
}

// Passkeys are offered where the browser has them.
function offerPasskeys(root) {
  if (window.PublicKeyCredential?.parseRequestOptionsFromJSON) for (const button of root.querySelectorAll("[data-sign-in]")) button.hidden = false;
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sign-in]");
  if (button) passkey(button);
});

for (const button of document.querySelectorAll("[data-theme-switch]")) {
  button.addEventListener("click", () => {
    const theme = document.documentElement.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
    localStorage.setItem("theme", theme);
    document.documentElement.setAttribute("data-bs-theme", theme);
  });
}
// Paper is light.
let onScreen;
addEventListener("beforeprint", () => { onScreen = document.documentElement.getAttribute("data-bs-theme"); document.documentElement.setAttribute("data-bs-theme", "light"); });
addEventListener("afterprint", () => document.documentElement.setAttribute("data-bs-theme", onScreen));
document.querySelectorAll("[data-live]").forEach(follow);
document.querySelectorAll("[data-slider]").forEach(slide);
document.addEventListener("htmx:afterSwap", (event) => {
  localise(event.target);
  widths(event.target);
  offerPasskeys(document);
  if (document.querySelector(".sign-in .asked, .sign-in .codes")) document.querySelector(".other-ways")?.remove(); // this way is half gone already
  event.target.parentElement?.querySelector("[autofocus]")?.focus();
});
localise(document);
widths(document);
offerPasskeys(document);
if (document.querySelector("[data-hide-query]")) history.replaceState(null, "", location.pathname); // a link's secret stays in no history
setInterval(() => tick(document), 1000);
if (document.querySelector("[data-chart]")) addEventListener("load", () => document.querySelectorAll("[data-chart]").forEach(draw));

// A form is sent once; what was opened of the menu stays so.
for (const form of document.querySelectorAll("form[data-form]")) {
  form.addEventListener("submit", () => setTimeout(() => { for (const button of form.querySelectorAll("button:not([type=button])")) button.disabled = true; }));
}
addEventListener("pageshow", (event) => { // back from another page, as it was left
  if (event.persisted) for (const button of document.querySelectorAll("form[data-form] button")) button.disabled = false;
});
for (const part of document.querySelectorAll("[data-menu-part]")) {
  const key = "menu " + part.dataset.menuPart;
  if (localStorage.getItem(key) === "open") part.open = true;
  part.firstElementChild.addEventListener("click", () => { if (part.open) localStorage.removeItem(key); else localStorage.setItem(key, "open"); }); // before it opens or closes
}
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // not by plain HTTP: there it is marked and copied by hand
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.lastChild.textContent = " Copied";
  });
}

// A passkey is made by the browser, of what the server asks for; the form around it sends it.
for (const part of document.querySelectorAll("[data-passkey]")) {
  if (!window.PublicKeyCredential?.parseCreationOptionsFromJSON) continue; // by plain HTTP, say
  part.hidden = false;
  const form = part.querySelector("form"), refused = part.querySelector("[data-passkey-refused]");
  form.addEventListener("submit", async (event) => {
    if (form.elements.credential.value) return;
    event.preventDefault();
    refused.hidden = true;
    try {
      const answer = await fetch("/me/passkeys/begin", {method: "POST", body: new URLSearchParams({password: form.elements.password.value})});
      const challenge = await answer.json();
      if (!answer.ok) throw new Error(challenge.message);
      const made = await navigator.credentials.create({publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(challenge.options.publicKey)});
      form.elements.challenge_token.value = challenge.challenge_token;
      form.elements.credential.value = JSON.stringify(made.toJSON());
      form.elements.password.value = "";
      form.elements.password.required = false;
      form.requestSubmit();
    } catch (error) {
      refused.textContent = error.message;
      refused.hidden = false;
      setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = false; });
    }
  });
}
// Bars by keyboard: from one to the next with the arrow keys, else to another time where there is one. Some bars come
// later than the page.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.("input, select, textarea, .table-responsive")) return;
  const bar = event.target.closest?.("[data-bars] a");
  if (bar && event.key.startsWith("Arrow")) {
    const rows = [...bar.closest("[data-timeline]").querySelectorAll("[data-bars]")], bars = [...bar.parentNode.querySelectorAll("a")], at = bars.indexOf(bar);
    const row = rows.indexOf(bar.parentNode) + (event.key === "ArrowDown") - (event.key === "ArrowUp");
    const next = event.key === "ArrowLeft" ? bars[at - 1] : event.key === "ArrowRight" ? bars[at + 1] : rows[row]?.querySelector("a");
    if (next) { event.preventDefault(); next.focus(); }
    return;
  }
  const link = document.querySelector("a[data-key='" + CSS.escape(event.key) + "']");
  if (link) { event.preventDefault(); link.click(); }
});
// People and machines are found while somebody types: the arrow keys go through what is called so, Enter narrows the
// page to it, Escape closes the list. Without it the form asks, and the page offers what it found.
for (const box of document.querySelectorAll("[data-combobox]")) {
  const input = box.querySelector("input"), list = box.querySelector("[role=listbox]");
  const options = () => [...list.querySelectorAll("[role=option]:not([aria-disabled])")];
  const chosen = () => list.querySelector("[aria-selected=true]");
  const choose = (option) => {
    for (const other of options()) other.setAttribute("aria-selected", other === option);
    if (option) { input.setAttribute("aria-activedescendant", option.id); option.scrollIntoView({block: "nearest"}); } else input.removeAttribute("aria-activedescendant");
  };
  const open = (shown) => { list.hidden = !shown; input.setAttribute("aria-expanded", shown); if (!shown) choose(null); };
  const narrow = (option) => {
    const kept = Object.assign(document.createElement("input"), {type: "hidden", name: option.dataset.kind, value: option.dataset.id});
    box.append(kept);
    input.value = "";
    input.form.requestSubmit();
  };
  list.addEventListener("htmx:afterSwap", () => open(list.children.length > 0 && document.activeElement === input));
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays where it is
  list.addEventListener("click", (event) => { const option = event.target.closest("[data-id]"); if (option) narrow(option); });
  input.addEventListener("blur", () => open(false));
  input.addEventListener("keydown", (event) => {
    const all = options(), at = all.indexOf(chosen());
    const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (step && all.length) { event.preventDefault(); open(true); choose(all[(at + step + all.length + (at < 0 && step < 0 ? 1 : 0)) % all.length]); }
    else if (event.key === "Enter" && at >= 0) { event.preventDefault(); narrow(all[at]); }
    else if (event.key === "Escape" && !list.hidden) { event.preventDefault(); open(false); }
  });
}
