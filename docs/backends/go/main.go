// A backend behind Fanlight: says who may connect, answers messages, publishes, mints tokens.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"example.com/backend/fanlight"
)

var api = fanlight.API{URL: os.Getenv("GATEWAY_API"), Key: os.Getenv("API_KEY")}

// What the gateway tells; other kinds have other fields.
type event struct {
	Type, ID, User, Session, Destination string
	Data                                 struct{ Text string }
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
		// To all by the server API, under the webhook's own id: a retry publishes nothing twice.
		err := api.Publish("/topic/greetings", object{"from": event.User, "text": event.Data.Text}, event.ID)
		// To the session that sent it, as the answer.
		reply := object{"to": "/user/queue/replies", "only": "session", "data": object{"heard": event.Data.Text}}
		return object{"send": []object{reply}}, err
	}
	return object{}, nil
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
	if err != nil {
		// The sender is told that it did not work.
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(reply)
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
	http.HandleFunc("/fanlight", webhook)
	http.HandleFunc("/token", token)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
