package prompt

import "time"

const (
	// settle is how long the prompt has to have the keyboard, with no key pressed, before
	// keys count: what somebody was just writing elsewhere is no answer.
	settle = 300 * time.Millisecond
	// silence is for how long nobody may have pressed a key before the keyboard is asked for.
	silence = 700 * time.Millisecond
	// clickLasts is how long after a click a window may take the keyboard because of it.
	clickLasts = 250 * time.Millisecond
	// comingUp is for how long the program asked about may still be opening its windows.
	comingUp = 15 * time.Second
)

// idleTimes tells how long ago the last key was pressed and the pointer last used. Not known:
// ok is false.
type idleTimes func() (keyboard, pointer time.Duration, ok bool)

// attention decides which keys are meant for the prompt, and when it may ask for the
// keyboard that the program's own window took from it by opening later. It asks once, and
// never somebody who has chosen where to be: by a key, by a click, or by answering.
type attention struct {
	idle    idleTimes
	shownAt time.Time
	focused bool
	since   time.Time // it has the keyboard, or has it not
	// listens: keys count, otherwise they do from listensAt on.
	listens   bool
	listensAt time.Time
	// used: the person has answered something here.
	used bool
	// asksAt is when to see whether to ask for the keyboard; zero: it is not to be asked for.
	asksAt time.Time
	asked  bool
}

// show takes in that the window is on the screen.
func (a *attention) show(now time.Time) {
	if !a.shownAt.IsZero() {
		return
	}
	a.shownAt = now
	if !a.focused {
		a.since, a.asksAt = now, now.Add(settle)
	}
}

// gain takes in that the window has the keyboard.
func (a *attention) gain(now time.Time) {
	if !a.focused {
		a.focused, a.since, a.listensAt, a.asksAt = true, now, now.Add(settle), time.Time{}
	}
}

// lose takes in that another one has it.
func (a *attention) lose(now time.Time) {
	if !a.focused {
		return
	}
	had := now.Sub(a.since)
	a.focused, a.listens, a.since = false, false, now
	// A key that was pressed while the prompt had the keyboard, or a click, has led away.
	keyboard, pointer, ok := a.idle()
	if ok && !a.used && keyboard > had && pointer > clickLasts && now.Sub(a.shownAt) < comingUp {
		a.asksAt = now.Add(settle)
	}
}

// key tells whether a key is meant for the prompt, by when it was pressed: it may be
// taken in later than that.
func (a *attention) key(pressed time.Time) bool {
	a.gain(pressed)
	a.listens = !pressed.Before(a.listensAt)
	if a.listens {
		a.used = true
	} else {
		a.listensAt = pressed.Add(settle)
	}
	return a.listens
}

// click takes in a click on the prompt: whoever does that looks at it.
func (a *attention) click() {
	a.used, a.listens, a.listensAt, a.asksAt = true, a.focused, time.Time{}, time.Time{}
}

// due is when to wake; ok is false where nothing is to be waited for.
func (a *attention) due() (at time.Time, ok bool) {
	if a.focused {
		return a.listensAt, !a.listens
	}
	return a.asksAt, !a.asksAt.IsZero()
}

// wake does what is due; ask: the keyboard is to be asked for.
func (a *attention) wake(now time.Time) (ask bool) {
	at, ok := a.due()
	if !ok || now.Before(at) {
		return false
	}
	keyboard, _, known := a.idle()
	if a.focused {
		// A key may have been pressed that was not taken in yet.
		if a.listens = !known || keyboard >= settle; !a.listens {
			a.listensAt = now.Add(settle - keyboard)
		}
		return false
	}
	a.asksAt = time.Time{}
	if !known || a.asked || a.used || keyboard < now.Sub(a.since) {
		return false
	}
	if keyboard < silence {
		a.asksAt = now.Add(silence - keyboard)
		return false
	}
	a.asked = true
	return true
}
