package archive_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/cetrus/cetrus/services/platform/archive"
)

// brokenStore refuses to make objects while it is told to.
type brokenStore struct {
	archive.Store

	mu    sync.Mutex
	err   error
	times int
}

func (b *brokenStore) set(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *brokenStore) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times
}

func (b *brokenStore) Create(ctx context.Context, name string, content []byte) error {
	b.mu.Lock()
	b.times++
	err := b.err
	b.mu.Unlock()
	if err != nil {
		return err
	}
	return b.Store.Create(ctx, name, content)
}

// deafStore makes objects, and loses each answer: who asks again is refused.
type deafStore struct{ archive.Store }

func (d deafStore) Create(ctx context.Context, name string, content []byte) error {
	if err := d.Store.Create(ctx, name, content); err != nil {
		return err
	}
	return d.Store.Create(ctx, name, content)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
