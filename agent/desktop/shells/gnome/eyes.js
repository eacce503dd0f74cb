// Tells the Cetrus agent, and nobody else on the session's message bus, which windows
// there are and which one is in front. What imports it gives Gio, GLib, Meta and Main.

const EYES = 'org.cetrus.Eyes1';
const PATH = '/org/cetrus/Eyes';

class CetrusEyes {
    constructor() {
        this._agent = null; // its own name on the bus
        this._queued = 0;
        this._signals = [];
        this._open = new Set(); // windows: an actor outlives its window while it fades
        this._watch = Gio.bus_watch_name(Gio.BusType.SESSION, EYES, Gio.BusNameWatcherFlags.NONE,
            (bus, name, owner) => this._appeared(bus, owner), () => this._vanished());
    }

    destroy() {
        Gio.bus_unwatch_name(this._watch);
        // Under the lock screen no extension runs, and no window is in front.
        this._call(Main.sessionMode.isLocked ? this._shown(true) : {ended: true});
        this._vanished();
    }

    // Only a program that an administrator has installed is told anything.
    _appeared(bus, owner) {
        bus.call('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'GetConnectionUnixProcessID',
            new GLib.Variant('(s)', [owner]), null, Gio.DBusCallFlags.NONE, 5000, null, (source, result) => {
                try {
                    const [pid] = source.call_finish(result).deepUnpack();
                    if (this._installed(pid))
                        this._begin(owner);
                } catch (e) {
                    log(`Cetrus: ${e.message}`);
                }
            });
    }

    _installed(pid) {
        const exe = `/proc/${pid}/exe`;
        const name = GLib.path_get_basename(GLib.file_read_link(exe).replace(/ \(deleted\)$/, ''));
        const info = Gio.File.new_for_path(exe).query_info('unix::uid', Gio.FileQueryInfoFlags.NONE, null);
        if (name === 'cetrus-agent' && info.get_attribute_uint32('unix::uid') === 0)
            return true;
        log(`Cetrus: process ${pid} has taken the agent's name on the bus and is not the installed agent; it is told nothing`);
        return false;
    }

    _begin(owner) {
        this._vanished();
        this._agent = owner;
        this._connect(global.display, 'notify::focus-window', () => this._show());
        this._connect(global.display, 'window-created', (display, window) => {
            this._follow(window);
            this._show();
        });
        this._connect(Main.overview, 'showing', () => this._show());
        this._connect(Main.overview, 'hidden', () => this._show());
        this._connect(Main.sessionMode, 'updated', () => this._show());
        for (const actor of global.get_window_actors()) {
            if (actor.meta_window)
                this._follow(actor.meta_window);
        }
        this._show();
    }

    _vanished() {
        this._agent = null;
        this._open.clear();
        for (const [object, id] of this._signals)
            object.disconnect(id);
        this._signals = [];
        if (this._queued)
            GLib.source_remove(this._queued);
        this._queued = 0;
    }

    _connect(object, signal, handler) {
        this._signals.push([object, object.connect(signal, handler)]);
    }

    _follow(window) {
        this._open.add(window);
        this._connect(window, 'notify::title', () => this._show());
        this._connect(window, 'notify::wm-class', () => this._show());
        this._connect(window, 'unmanaged', () => {
            this._open.delete(window);
            // Its own signals go with it.
            this._signals = this._signals.filter(([object]) => object !== window);
            this._show();
        });
    }

    _windows() {
        return [...this._open].filter(window => this._counts(window));
    }

    _counts(window) {
        return [Meta.WindowType.NORMAL, Meta.WindowType.DIALOG, Meta.WindowType.MODAL_DIALOG, Meta.WindowType.UTILITY]
            .includes(window.get_window_type());
    }

    // What happens together is told together.
    _show() {
        if (this._queued || !this._agent)
            return;
        this._queued = GLib.timeout_add(GLib.PRIORITY_DEFAULT, 20, () => {
            this._queued = 0;
            this._call(this._shown(false));
            return GLib.SOURCE_REMOVE;
        });
    }

    _shown(covered) {
        const id = window => window ? String(window.get_id()) : '';
        const front = global.display.focus_window;
        covered = covered || Main.overview.visible || Main.sessionMode.isLocked;
        return {
            focus: front && !covered && this._counts(front) ? id(front) : '',
            windows: this._windows().map(window => ({
                id: id(window),
                parent: id(window.get_transient_for()),
                pid: window.get_pid(),
                class: window.get_sandboxed_app_id() || window.get_wm_class() || '',
                title: window.get_title() || '',
            })),
        };
    }

    _call(what) {
        if (!this._agent)
            return;
        Gio.DBus.session.call(this._agent, PATH, EYES, 'Show', new GLib.Variant('(s)', [JSON.stringify(what)]),
            null, Gio.DBusCallFlags.NO_AUTO_START, 5000, null, (bus, result) => {
                try {
                    bus.call_finish(result);
                } catch {
                    // It has gone; its name says so.
                }
            });
    }
}
