package manager

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/enroll"
)

// TokenOrder asks for an enrolment token.
type TokenOrder struct {
	Label        string `json:"label"`
	Uses         int    `json:"uses"`
	ValidSeconds int64  `json:"valid_seconds"`
}

// NewToken is the answer: the token itself is told here, and never again.
type NewToken struct {
	enroll.Token
	Text string `json:"text"`
}

// Successor is the authority that follows the site's.
type Successor struct {
	Until time.Time `json:"until"`
}

// maxOrderBytes is how long an order may be.
const maxOrderBytes = 64 << 10

// serveEnrollment takes orders about tokens and enrolled agents.
func (m *Manager) serveEnrollment(mux *http.ServeMux) {
	if m.enrolled == nil {
		unknown := func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "agents do not enrol at this Manager: its agents_security is "+string(m.config.AgentsSecurity), http.StatusConflict)
		}
		mux.HandleFunc("/api/v1/tokens", unknown)
		mux.HandleFunc("/api/v1/tokens/", unknown)
		mux.HandleFunc("/api/v1/enrolled", unknown)
		mux.HandleFunc("/api/v1/enrolled/", unknown)
		mux.HandleFunc("/api/v1/authority/succeed", unknown)
		return
	}
	mux.HandleFunc("GET /api/v1/tokens", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.enrolled.Tokens()) })
	mux.HandleFunc("GET /api/v1/enrolled", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.enrolled.Agents()) })
	mux.HandleFunc("POST /api/v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		if !m.mayCommand(w, r) {
			return
		}
		var order TokenOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrderBytes)).Decode(&order); err != nil {
			http.Error(w, "the order cannot be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		text, token, err := m.enrolled.CreateToken(order.Label, order.Uses, time.Duration(min(order.ValidSeconds, int64(enroll.MaxValid/time.Second)+1))*time.Second)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeJSON(w, NewToken{token, text})
	})
	mux.HandleFunc("POST /api/v1/authority/succeed", func(w http.ResponseWriter, r *http.Request) {
		if !m.mayCommand(w, r) {
			return
		}
		until, err := m.enrolled.Succeed()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, Successor{until})
	})
	mux.HandleFunc("POST /api/v1/tokens/{id}/revoke", func(w http.ResponseWriter, r *http.Request) {
		m.commanded(func() error { return m.enrolled.RevokeToken(r.PathValue("id")) })(w, r)
	})
	mux.HandleFunc("POST /api/v1/enrolled/{id}/readmit", func(w http.ResponseWriter, r *http.Request) {
		m.commanded(func() error {
			id, err := contract.ParseID(r.PathValue("id"))
			if err != nil {
				return err
			}
			return m.enrolled.ReadmitAgent(id)
		})(w, r)
	})
	mux.HandleFunc("POST /api/v1/enrolled/{id}/revoke", func(w http.ResponseWriter, r *http.Request) {
		if !m.mayCommand(w, r) {
			return
		}
		id, err := contract.ParseID(r.PathValue("id"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ended, err := m.enrolled.RevokeAgent(id, r.URL.Query().Get("copies") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, ended)
	})
}

// CreateToken makes a token for agents that enrol here; those in the same process ask so.
func (m *Manager) CreateToken(label string, uses int, valid time.Duration) (string, error) {
	if m.enrolled == nil {
		return "", errors.New("manager: agents do not enrol here")
	}
	text, _, err := m.enrolled.CreateToken(label, uses, valid)
	return text, err
}
