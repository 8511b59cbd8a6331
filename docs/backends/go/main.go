// A backend behind Fanlight: says who may connect, answers messages, hears of disconnects, pushes to
// users, mints tokens.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"time"

	"example.com/backend/fanlight"
)

var api = fanlight.API{URL: os.Getenv("GATEWAY_API"), Key: os.Getenv("API_KEY")}

// What the gateway tells; other kinds have other fields.
type event struct {
	Type, ID, User, Session, Destination string
	// What the client sent, whatever that is.
	Data json.RawMessage
}

type object = map[string]any

func answer(event event) (object, error) {
	switch event.Type {
	case "connect":
		if event.User == "" || event.User == "mallory" {
			return object{"allow": false, "reason": "not welcome"}, nil
		}
		return object{"allow": true}, nil
	case "message":
		return greet(event)
	case "disconnected":
		// Of one session; its user may have others. Told again until this succeeds.
		return object{}, api.Publish("/topic/greetings", object{"left": event.User}, event.ID)
	}
	return object{}, nil
}

func greet(event event) (object, error) {
	var greeting struct{ Text *string }
	if json.Unmarshal(event.Data, &greeting) != nil || greeting.Text == nil {
		// What is the client's fault is an answer: failures count against this backend.
		return object{"error": object{"code": "bad_greeting", "message": "`text` is missing"}}, nil
	}
	// To all by the server API, under the webhook's own id: a retry publishes nothing twice.
	err := api.Publish("/topic/greetings", object{"from": event.User, "text": *greeting.Text}, event.ID)
	// To the session that sent it, as the answer.
	reply := object{"to": "/user/queue/replies", "only": "session", "data": object{"heard": *greeting.Text}}
	return object{"send": []object{reply}}, err
}

func webhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2<<20))
	if err == nil {
		err = fanlight.Verify(r.Header, body, os.Getenv("WEBHOOK_SECRET"), time.Now())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var event event
	if err := json.Unmarshal(body, &event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	reply, err := answer(event)
	var refused *fanlight.Refused
	if errors.As(err, &refused) {
		// Not this backend's failure: the client is told.
		reply, err = object{"error": object{"code": refused.Code, "message": refused.Detail}}, nil
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(reply)
}

// The sender is told that it did not work.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	var refused *fanlight.Refused
	if errors.As(err, &refused) {
		status = refused.Status
	}
	http.Error(w, err.Error(), status)
}

// To all sessions of a user, wherever they are. A real one has nobody else notify its users.
func notify(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	if err == nil {
		to := "/user/" + url.PathEscape(r.URL.Query().Get("user")) + "/queue/alerts"
		// Of what happened, not of the attempt.
		key := make([]byte, 16)
		rand.Read(key)
		err = api.Publish(to, object{"text": string(text)}, hex.EncodeToString(key))
	}
	if err != nil {
		fail(w, err)
	}
}

func token(w http.ResponseWriter, r *http.Request) {
	// A real one asks who is there.
	token, err := fanlight.MintToken(r.URL.Query().Get("user"), time.Hour, os.Getenv("JWT_SECRET"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	io.WriteString(w, token)
}

func main() {
	// Ends it here, rather than to take what anybody has signed.
	if _, err := fanlight.WebhookKey(os.Getenv("WEBHOOK_SECRET")); err != nil {
		log.Fatal("WEBHOOK_SECRET: ", err)
	}
	http.HandleFunc("/fanlight", webhook)
	http.HandleFunc("/notify", notify)
	http.HandleFunc("/token", token)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
