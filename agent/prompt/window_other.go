//go:build !linux && !windows

package prompt

import (
	"context"
	"errors"
)

func show(context.Context, *Model) error {
	return errors.New("prompt: this system has no prompt yet")
}
