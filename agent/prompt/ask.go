package prompt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// reapAfter is how long a prompt that was told to go may take to do so.
const reapAfter = 2 * time.Second

// Ask shows a question in a process of its own and gives the answer. The command is
// `cetrus-agent prompt` in the environment of the desktop session; Ask uses its
// standard input and outputs. When ctx ends, the window closes. An error means that
// nobody was asked, or nobody can be.
func Ask(ctx context.Context, command *exec.Cmd, request Request) (Answer, error) {
	if err := request.Check(); err != nil {
		return Answer{}, err
	}
	question, err := json.Marshal(request)
	if err != nil {
		return Answer{}, fmt.Errorf("prompt: write the question: %w", err)
	}
	in, err := command.StdinPipe()
	if err != nil {
		return Answer{}, fmt.Errorf("prompt: %w", err)
	}
	var out, complaint limited
	out.most, complaint.most = maxAnswerBytes, 4<<10
	command.Stdout, command.Stderr, command.WaitDelay = &out, &complaint, reapAfter
	if err := command.Start(); err != nil {
		_ = in.Close()
		return Answer{}, fmt.Errorf("prompt: start it: %w", err)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = in.Close()
		timer := time.NewTimer(reapAfter)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			_ = command.Process.Kill()
		}
	})
	defer stop()
	_, writeErr := in.Write(append(question, '\n'))
	waitErr := command.Wait()
	close(done)
	switch {
	case ctx.Err() != nil:
		return Answer{}, ctx.Err()
	case waitErr != nil:
		return Answer{}, fmt.Errorf("prompt: it ended with %w: %s", waitErr, strings.TrimSpace(complaint.String()))
	case writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe):
		return Answer{}, fmt.Errorf("prompt: put the question: %w", writeErr)
	}
	return ReadAnswer(&out.Buffer, request)
}

// limited keeps the beginning of what is written to it.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(b []byte) (int, error) {
	if room := l.most - l.Len(); room > 0 {
		_, _ = l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
