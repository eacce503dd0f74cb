package prompt

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// Run is the whole of `cetrus-agent prompt`: it reads a question, shows it, and
// writes the answer. It ends early, without an answer, when its input does.
func Run(ctx context.Context, in io.Reader, out io.Writer) error {
	request, err := ReadRequest(in)
	if err != nil {
		return err
	}
	model, err := NewModel(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Whoever asked keeps the input open for as long as they want to know. The read
	// ends with the process.
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	if err := show(ctx, model); err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(model.Answer()); err != nil {
		return fmt.Errorf("prompt: tell the answer: %w", err)
	}
	return nil
}
