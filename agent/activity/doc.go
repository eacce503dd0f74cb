// Package activity turns what a desktop shows into usage events: the state
// machine that docs call "what a second of use is".
//
// It is pure. It reads no clock, no file and no operating system: every time
// comes from an Observation, and the same observations give the same events (but
// for random ids, whose source is given). A scripted desktop in virtual time
// therefore runs the very code that watches a real one.
//
// # How it works
//
// An Observation says what holds from its moment on, until the next one; only
// input is told after the fact, as the time of the last input. The machine keeps
// one track per open instance and per open document. A track is fed with raw
// pieces of time ("in front", "behind", "locked", …) and with the session's
// inputs. What lies behind the last input and within the activity gap cannot be
// decided yet, since the next input may make it busy: such pieces wait, and what
// is decided becomes usage events. Live snapshots do not wait: they call a
// waiting piece busy.
//
// # Decisions where the semantics leave room
//
//   - An input counts where it falls outside of lock, sleep, pause and blindness;
//     an input at the very moment at which one of them begins belongs to it.
//   - An input that is told late counts at the previous observation, never
//     before it: what an observation has said is not taken back.
//   - Sleep shorter than SleepFloor is not told from jitter of the clocks. Sleep is
//     placed at the end of the time between two observations, but before an input
//     that can only have come after it.
//   - A gap between inputs is judged by the activity gap in force at the later
//     input; a stretch that was over under the old gap stays over.
//   - A timeout that has begun lasts until the next busy moment, even where a
//     policy change makes T longer. Where the counted time reaches T at the very
//     moment of a busy moment or of closing, there is no timeout.
//   - A process belongs to an application from the moment when it, or a window of
//     it, matches, until it exits: a title that no longer matches takes the window
//     away from the application, not the process. Only matching processes keep an
//     instance open; ancestry is followed through the others.
//   - A process that came and went between two observations counts from its start to its
//     exit, in the background: it showed no window. Where it was the launcher of an
//     instance that is told already, it belongs to that one, whose opening stays where it
//     was told. At the first observation, and at the one at which a policy comes into
//     force, such processes do not count.
//   - A process opens its instance at its start where it is told no more than LateStart
//     later, otherwise when it is told; one that ran another program before, from when it
//     became this one, where that is told. That moment closes the instance of the other.
//   - A launcher hands over when a process of the same application starts no later
//     than HandOver after the last exit, and is told no later than LateStart after that. The
//     time between is BACKGROUND.
//   - A dialog follows its parent window, and is matched on its own only where no
//     window above it is metered.
//   - A title is read by the rules of its application, and one that gives a file's bare
//     name is completed by what its process has open or was started with (Evidence),
//     where just one file of that name is found. That is asked for a new title, and where it
//     gave no certainty once more a little later; what was found out of a name then stays
//     so for its process, unless an open file says otherwise.
//   - What was never saved is a document of that run of its program; saved under a name it
//     is another one. A sign of unsaved changes is part of no name.
//   - A palette (Window.Auxiliary) has no document of its own; in front, it is the document
//     used last that is.
//   - Processes that were there before the agent began to watch open at the first
//     observation. After a crash or stop in the same boot, those that started
//     in the hole open at their start, UNKNOWN until the agent watches again.
//   - The hole after a crash is UNKNOWN as a whole, sleep in it included: when the
//     machine slept in it is not known.
//   - A process that went in the hole closes its instance at the slot's time, LOST,
//     also where another took over from it within HandOver: its exit was not seen.
//   - What the journal tells behind the slot is taken over: a document's event says that
//     its instance went on until then, an instance's event that a hand-over continued it.
//   - A policy that comes between two processes of a hand-over holds for what the second
//     continues.
//   - While paused, titles are not looked at: no document opens, and none changes.
//   - Applications whose use is given to projects have their windows told whole
//     (Output.Windows), whatever policy keeps of documents: in memory, and nowhere else.
//   - An event carries the anchor, rule and policy revision of the interval that it
//     closes; an opening, those of its moment.
//   - A long sleep, or a long time that was not watched, is cut at each quarter-hour as
//     any other, and told in parts of about Config.PartEvents cuts; after each part the
//     slot is valid. A crash, or a stop, between two parts leaves the rest UNKNOWN, though
//     it was sleep.
//   - Drift of the wall clock against the anchor of DriftFloor or more makes a new
//     anchor, as does a new zone offset; both cut open intervals, as a step does.
package activity
