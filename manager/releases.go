package manager

import (
	"net/http"

	"github.com/cetrus/cetrus/proto/release"
)

// serveReleases takes orders about releases.
func (m *Manager) serveReleases(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/releases", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.releases.List()) })
	mux.HandleFunc("POST /api/v1/releases", func(w http.ResponseWriter, r *http.Request) {
		if !m.mayCommand(w, r) {
			return
		}
		const most = release.MaxProgramBytes + 1<<20
		added, err := m.releases.Add(http.MaxBytesReader(w, r.Body, most))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.log.Info("a release was added", "release", added.Manifest, "percent", added.Percent)
		writeJSON(w, added)
	})
	for verb, act := range map[string]func(string) error{
		"withdraw": m.releases.Withdraw, "hold": m.releases.Hold, "go-on": m.releases.GoOn,
	} {
		mux.HandleFunc("POST /api/v1/releases/{file}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			file := r.PathValue("file")
			m.commanded(func() error {
				err := act(file)
				if err == nil {
					m.log.Info("an order about a release", "order", verb, "file", file)
				}
				return err
			})(w, r)
		})
	}
}
