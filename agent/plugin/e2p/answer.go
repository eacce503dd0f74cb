package e2p

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// workerKey is the key of the field "Who is working?".
const workerKey = "_worker"

// choiceOf turns an answer into a choice, without what it is for.
func choiceOf(r prompt.Request, a prompt.Answer) (*pluginv1.Choice, error) {
	c := &pluginv1.Choice{Fields: map[string]string{}}
	proposed := map[string]string{}
	for _, f := range r.Fields {
		value := a.Values[f.Key]
		switch {
		case value == "":
		case f.Kind == prompt.Worker:
			id, err := hex.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("e2p: worker: %w", err)
			}
			c.WorkerId = id
		case f.Kind == prompt.Project && slices.Contains(a.Proposed, f.Key):
			proposed[f.Key] = value
		case f.Kind == prompt.Project:
			id, err := hex.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("e2p: project: %w", err)
			}
			c.Chosen = &pluginv1.Choice_ProjectId{ProjectId: id}
		default:
			c.Fields[f.Key] = value
		}
	}
	switch {
	case a.Outcome == prompt.NotChargeable:
		c.Chosen, c.Fields = &pluginv1.Choice_NotChargeable{NotChargeable: true}, nil
	case len(proposed) > 0 || c.GetChosen() == nil && len(c.GetFields()) > 0:
		// The person's own words, with all that belongs to them.
		for key, value := range c.GetFields() {
			proposed[key] = value
		}
		c.Chosen, c.Fields = &pluginv1.Choice_Proposed{Proposed: &usagev1.ProposedProject{Fields: proposed}}, nil
	case c.GetChosen() == nil:
		return nil, errors.New("e2p: nothing was filled in")
	}
	return c, nil
}
