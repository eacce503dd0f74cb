// Tells the Cetrus agent, and nobody else on the session's message bus, which windows
// there are and which one is in front. KWin 5 and 6 name the same things differently.
"use strict";

const eyes = "@EYES@"; // the agent's own name on the bus
const windows = () => (workspace.windowList ? workspace.windowList() : workspace.clientList());
const active = () => (workspace.windowList ? workspace.activeWindow : workspace.activeClient);

function counts(window) {
    return window && (window.normalWindow || window.dialog || window.utility);
}

function show() {
    const list = [];
    for (const window of windows()) {
        if (!counts(window)) {
            continue;
        }
        const parent = window.transientFor;
        list.push({
            id: String(window.internalId),
            parent: parent ? String(parent.internalId) : "",
            pid: window.pid,
            class: String(window.desktopFileName || window.resourceClass),
            title: String(window.caption),
        });
    }
    const front = active();
    const focus = counts(front) ? String(front.internalId) : "";
    callDBus(eyes, "/org/cetrus/Eyes", "org.cetrus.Eyes1", "Show", JSON.stringify({ focus: focus, windows: list }));
}

function follow(window) {
    if (window && window.captionChanged) {
        window.captionChanged.connect(show);
    }
}

windows().forEach(follow);
const added = workspace.windowAdded || workspace.clientAdded;
const removed = workspace.windowRemoved || workspace.clientRemoved;
const activated = workspace.windowActivated || workspace.clientActivated;
added.connect((window) => {
    follow(window);
    show();
});
removed.connect(show);
activated.connect(show);
show();
