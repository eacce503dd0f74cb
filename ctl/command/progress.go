package command

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress tells on the standard error how far long work is, where that is a terminal.
type progress struct {
	s     *session
	is    bool
	began time.Time

	mu    sync.Mutex
	shown bool
	ended bool
}

// progress begins to tell.
func (s *session) progress() *progress {
	_, is := terminal(s.Err)
	return &progress{s: s, is: is && s.Env("TERM") != "dumb", began: s.Now()}
}

// say replaces what was told. What takes less than a second is not worth a word.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.is || p.ended || p.s.Now().Sub(p.began) < time.Second {
		return
	}
	p.shown = true
	fmt.Fprintf(p.s.Err, "\r\x1b[K%s … %s", cleanLines(text), clock(p.s.Now().Sub(p.began)))
}

// during says a text each second until the returned function is called, which waits for the last.
func (p *progress) during(text string) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				p.say(text)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stop)
		<-stopped
		p.done()
	})
}

// announced is a writer before whose first word what was told of the progress is taken away.
type announced struct {
	io.Writer
	end func()
}

// Write writes, and first ends what was told.
func (a *announced) Write(p []byte) (int, error) {
	a.end()
	return a.Writer.Write(p)
}

// done takes it away again.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown && !p.ended {
		fmt.Fprint(p.s.Err, "\r\x1b[K")
	}
	p.ended = true
}
