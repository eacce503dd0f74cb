/* exported init */
const {Gio, GLib, Meta} = imports.gi;
const Main = imports.ui.main;

let eyes = null;

function init() {
}

function enable() {
    eyes = new CetrusEyes();
}

function disable() {
    eyes.destroy();
    eyes = null;
}

