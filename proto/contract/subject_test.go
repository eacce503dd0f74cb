package contract_test

import (
	"bytes"
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
)

func FuzzConflict(f *testing.F) {
	f.Add(contract.EncodeConflict(contract.ID{1}, 2))
	f.Add([]byte{})
	f.Add(make([]byte, 25))
	f.Fuzz(func(t *testing.T, body []byte) {
		agent, epoch, ok := contract.ParseConflict(body)
		if ok != (len(body) == 24) || ok && !bytes.Equal(contract.EncodeConflict(agent, epoch), body) {
			t.Errorf("%x is read as %s, %d, %t", body, agent, epoch, ok)
		}
	})
}
