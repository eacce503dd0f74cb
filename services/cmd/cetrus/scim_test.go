package main

import (
	"encoding/json"
	"strings"
)

// leaves is what an identity provider does when somebody leaves a company: it says so by SCIM, and their
// session is over in every process, whatever of it they still hold. theirs is a key of the account's
// administrator.
func (i *instance) leaves(account, theirs string) {
	i.t.Helper()
	i.eventually(200, "PATCH", "/v1/provisioning", `{"enabled":true,"group_mappings":[{"group":"","privileges":["PRIVILEGE_REPORT"]}]}`, theirs)
	i.order("admin", "create-login", "provider", "--account", account, "--privileges", "provisioning")
	provider := strings.TrimSpace(i.order("admin", "create-key", "provider", "--account", account))
	made := i.eventually(201, "POST", "/scim/v2/Users", `{"userName":"leaver","active":true}`, provider)
	said := i.order("admin", "reset-password", "leaver", "--account", account)
	password := strings.TrimSpace(said[strings.LastIndex(said, ": ")+2:])
	proof, err := json.Marshal(map[string]string{"account_name": account, "login_name": "leaver", "password": password, "new_password": "several words of their own"})
	if err != nil {
		i.t.Fatal(err)
	}
	tokens, _ := i.eventually(200, "POST", "/v1/sessions:signIn", string(proof), "")["tokens"].(map[string]any)
	access, _ := tokens["access_token"].(string)
	refresh, _ := tokens["refresh_token"].(string)
	i.eventually(200, "GET", "/v1/myLogin", "", access)

	const off = `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","path":"active","value":false}]}`
	if changed := i.eventually(200, "PATCH", "/scim/v2/Users/"+made["id"].(string), off, provider); changed["active"] != false {
		i.t.Errorf("disabled: %v", changed)
	}
	i.eventually(401, "GET", "/v1/myLogin", "", access)
	if code, answer := i.do("POST", "/v1/sessions:refresh", `{"refresh_token":"`+refresh+`"}`, ""); code != 401 {
		i.t.Errorf("a session outlives its person's work: %d %v", code, answer)
	}
	i.eventually(403, "GET", "/v1/logins", "", provider) // its key opens SCIM alone
}
