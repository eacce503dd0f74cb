import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import Meta from 'gi://Meta';
import * as Main from 'resource:///org/gnome/shell/ui/main.js';

export default class {
    enable() {
        this._eyes = new CetrusEyes();
    }

    disable() {
        this._eyes.destroy();
        this._eyes = null;
    }
}

