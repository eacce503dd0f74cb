//go:build !linux && !windows

package agent

import (
	"context"
	"errors"
	"net"

	"github.com/cetrus/cetrus/agent/activity"
)

var errNoAskers = errors.New("agent: this system does not tell who asks")

func askerOf(net.Conn) (asker, error) { return asker{}, errNoAskers }

func placeOf(net.Conn, func(uid string) bool) string { return ofStrangers }

func userOf(context.Context, string) (activity.User, error) { return activity.User{}, errNoAskers }
