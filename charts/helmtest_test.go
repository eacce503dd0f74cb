package charts

import (
	"slices"
	"strings"
	"testing"
)

// `helm test` never waits for a Secret that is not there: the first login's is removed once it was used, and a
// restoration does not make it again. One that the values name has to be there, and it fails if it is not.
func TestHelmTestDoesNotWaitForAKey(t *testing.T) {
	for text, optional := range map[string]bool{"{}": true, "test: {apiKeySecret: mine}": false} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		spec := pods(t, made)["Pod cetrus-check"].Spec
		for _, volume := range spec.Volumes {
			if volume.Secret != nil && (volume.Secret.Optional == nil || !*volume.Secret.Optional) {
				t.Errorf("with %s it waits for the Secret %s", text, volume.Secret.SecretName)
			}
		}
		if told := slices.Contains(spec.Containers[0].Args, "--api-key-optional"); told != optional {
			t.Errorf("with %s it does without a key: %v", text, told)
		}
		if told := strings.Contains(made.Notes, "test.apiKeySecret"); told != optional {
			t.Errorf("with %s test.apiKeySecret is told of: %v", text, told)
		}
	}
}

// What the notes say to ask by curl is asked at an address whose certificate curl is told to trust.
func TestNotesSayWhomCurlTrusts(t *testing.T) {
	for text, says := range map[string]string{
		"{}": "--cacert ca.crt -H \"X-API-Key: KEY\" -d '{\"display_name\":\"Berlin\"}' https://localhost:8080/v1/managers",
		"ingress: {enabled: true, host: a.example}": "curl -H \"X-API-Key: KEY\" -d '{\"display_name\":\"Berlin\"}' https://a.example/v1/managers",
		"publicURL: 'https://b.example'":            "curl -H \"X-API-Key: KEY\" -d '{\"display_name\":\"Berlin\"}' https://b.example/v1/managers",
	} {
		made, err := Render(t.Context(), Release{Chart: "cetrus", Values: values(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(made.Notes, says) || strings.Contains(made.Notes, "> ca.crt") != strings.Contains(says, "ca.crt") {
			t.Errorf("with %s:\n%s", text, made.Notes)
		}
	}
}
