package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cetrus/cetrus/manager"
)

// orderPatience is for orders that are carried out at once.
const orderPatience = 5 * time.Second

// refusedError is what a Manager said to an order that it does not carry out.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// running says where the Manager listens that is meant: the one at --status-address, or
// else that of the data folder, by whose id its answers are known.
func (s settings) running() (address, id string, err error) {
	if s.statusNamed {
		return s.StatusAddress, "", nil
	}
	there, err := manager.AddressesOf(s.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("no Manager runs on %s: start it, or name another with --data-dir or --status-address", s.DataDir)
	case err != nil:
		return "", "", fmt.Errorf("where the Manager of %s listens cannot be read: name it with --status-address, or ask as the owner of the folder: %w", s.DataDir, err)
	}
	return there.Status, there.ManagerID, nil
}

// ask reads from the running Manager, which answers anybody on its machine.
func ask(ctx context.Context, s settings, path string) ([]byte, error) {
	address, id, err := s.running()
	if err != nil {
		return nil, err
	}
	return call(ctx, s, orderPatience, address, id, http.MethodGet, path, "", nil)
}

// order has the running Manager do something, by the token in its folder. Without patience
// it waits for as long as that takes.
func order(ctx context.Context, s settings, patience time.Duration, path string, body io.Reader) ([]byte, error) {
	address, id, err := s.running()
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(s.DataDir, manager.ControlTokenFile))
	if err != nil {
		return nil, fmt.Errorf("the token for orders to the Manager of %s cannot be read: name its folder with --data-dir, and be its owner: %w", s.DataDir, err)
	}
	return call(ctx, s, patience, address, id, http.MethodPost, path, string(token), body)
}

func call(ctx context.Context, s settings, patience time.Duration, address, id, method, path, token string, body io.Reader) ([]byte, error) {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, body)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set(manager.TokenHeader, token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("no Manager answers on %s: %w", address, err)
	}
	defer response.Body.Close()
	if id != "" && response.Header.Get(manager.IDHeader) != id {
		return nil, fmt.Errorf("no Manager runs on %s: on %s, where it listened, something else answers now", s.DataDir, address)
	}
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		return nil, &refusedError{strings.TrimSpace(string(answer))}
	}
	return answer, err
}
