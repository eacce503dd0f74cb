package natsserver

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// streamInfo and a stream's name are what is asked to learn when the stream was made and how
	// far it reaches, so that one that was made anew or put back is noticed.
	streamInfo = "$JS.API.STREAM.INFO."
	// streamInfoBehind and the name are where that question comes out in the platform's account,
	// of Managers and of roles that need no more.
	streamInfoBehind = "roles.stream.info."
)

// answerStreamInfo answers questions about streams until the connection is closed.
// JetStream's own answer would, if asked to, list the subjects of every account; this one
// tells what a reader needs, whatever the question says.
func answerStreamInfo(nc *nats.Conn) error {
	_, err := nc.Subscribe(streamInfoBehind+"*", func(question *nats.Msg) {
		answer, err := nc.Request(streamInfo+strings.TrimPrefix(question.Subject, streamInfoBehind), nil, readyWithin)
		if err != nil {
			return // who asks asks again
		}
		if reduced, err := reduceStreamInfo(answer.Data); err == nil {
			_ = question.Respond(reduced) // fails only where the connection is gone
		}
	})
	if err != nil {
		return fmt.Errorf("natsserver: answer about streams: %w", err)
	}
	return nil
}

// lastOfLeader asks the leader of the stream of policies, and nobody else, for a message.
const lastOfLeader = "$JS.API.STREAM.MSG.GET." + contract.PolicyStream

// answerPolicyAsks answers Managers who ask for their account's policy as the stream's
// leader has it, until the connection is closed. Their permissions say for whose they may
// ask; JetStream's own way to ask would give them any.
func answerPolicyAsks(nc *nats.Conn) error {
	_, err := nc.Subscribe(contract.PolicyAsks, func(question *nats.Msg) {
		account, err := contract.ParseID(question.Subject[strings.LastIndexByte(question.Subject, '.')+1:])
		if err != nil || question.Subject != contract.PolicyAskSubject(account) {
			return
		}
		ask, err := json.Marshal(map[string]string{"last_by_subj": contract.PolicySubject(account)})
		if err != nil {
			return
		}
		answer, err := nc.Request(lastOfLeader, ask, readyWithin)
		if err != nil {
			return // the Manager asks again
		}
		var last struct {
			Message struct {
				Data []byte `json:"data"`
			} `json:"message"`
		}
		if json.Unmarshal(answer.Data, &last) == nil {
			_ = question.Respond(last.Message.Data) // fails only where the connection is gone
		}
	})
	if err != nil {
		return fmt.Errorf("natsserver: answer Managers: %w", err)
	}
	return nil
}

// reduceStreamInfo keeps of a stream's description what it is called, that its
// last messages can be had directly, when it was made, and which sequences it holds.
func reduceStreamInfo(answer []byte) ([]byte, error) {
	var info struct {
		Type   string `json:"type"`
		Config struct {
			Name        string `json:"name"`
			AllowDirect bool   `json:"allow_direct"`
		} `json:"config"`
		Created string `json:"created"`
		State   struct {
			FirstSeq uint64 `json:"first_seq"`
			LastSeq  uint64 `json:"last_seq"`
		} `json:"state"`
		Error json.RawMessage `json:"error,omitempty"`
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return nil, err
	}
	return json.Marshal(info)
}
