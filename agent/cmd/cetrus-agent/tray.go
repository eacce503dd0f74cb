package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/prompt"
	"github.com/cetrus/cetrus/agent/tray"
)

const (
	trayName     = "tray"
	attachedFlag = "attached"
)

// trayCommand is the icon in a person's session. On Linux the session starts it, on Windows
// the service does.
func trayCommand(s *settings) *cobra.Command {
	attached := false
	c := &cobra.Command{
		Use: trayName, Short: "Show an icon in this desktop session: what is recorded, pause, my data", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			runtime.GOMAXPROCS(processors)
			debug.SetGCPercent(gcPercent)
			debug.SetMemoryLimit(memoryLimit / 2)
			defer keepSmall(cmd.Context())()
			said := cmd.ErrOrStderr()
			if attached {
				file, err := openTrayLog()
				if err != nil {
					return err
				}
				defer file.Close()
				said = file
			}
			log, err := s.logger(said)
			if err != nil {
				return err
			}
			log.Info("the icon begins", "version", version)
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			ctx := cmd.Context()
			if attached {
				var end context.CancelFunc
				ctx, end = context.WithCancel(ctx)
				// Nobody waits for the reader: the process ends with it, or without.
				go func() {
					_, _ = io.Copy(io.Discard, os.Stdin)
					end()
				}()
			}
			control := s.control()
			return tray.Run(ctx, tray.Deps{
				Agent: control, Front: tray.NewFront(log), Log: log,
				ShowNotice: func(ctx context.Context, said agent.NoticeStatus) (bool, error) {
					answer, err := prompt.Ask(ctx, prompt.Command(exec.Command(self, "prompt")), prompt.Request{Notice: &prompt.Notice{Title: said.Title, Text: said.Text}})
					return answer.Outcome == prompt.Seen, err
				},
				ShowData: func(ctx context.Context) error { return showMyData(ctx, control, openFile) },
			})
		},
	}
	c.Flags().BoolVar(&attached, attachedFlag, false, "end with the standard input, as the service that starts this wants it")
	_ = c.Flags().MarkHidden(attachedFlag)
	return c
}

// opened is how long the desktop may take to open a file; most openers end at once.
const opened = 30 * time.Second

// openFile opens a file with what the person uses for it. An opener may be that itself, a
// browser say: it stays as long as the person wants it, and nobody waits for it.
func openFile(ctx context.Context, file string) error {
	command := opener(file)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		return fmt.Errorf("my data is in %s; opening it failed: %w", file, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }() // its end is the person's, or that of this process
	timer := time.NewTimer(opened)
	defer timer.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("my data is in %s; opening it failed: %w: %s", file, err, said.Bytes())
		}
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}
