package io.fanlight.examples.relay;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.context.annotation.Configuration;
import org.springframework.messaging.simp.config.MessageBrokerRegistry;
import org.springframework.web.socket.config.annotation.EnableWebSocketMessageBroker;
import org.springframework.web.socket.config.annotation.StompEndpointRegistry;
import org.springframework.web.socket.config.annotation.WebSocketMessageBrokerConfigurer;

/** The endpoints that browsers connect to, and the broker behind them. */
@Configuration
@EnableWebSocketMessageBroker
class WebSocketConfig implements WebSocketMessageBrokerConfigurer {

  @Value("${fanlight.host}")
  private String host;

  @Value("${fanlight.port}")
  private int port;

  @Value("${fanlight.login}")
  private String login;

  @Value("${fanlight.passcode}")
  private String passcode;

  @Override
  public void configureMessageBroker(MessageBrokerRegistry registry) {
    registry.setApplicationDestinationPrefixes("/app");
    // Otherwise a pool of threads may send to a client in another order than the broker's.
    registry.setPreservePublishOrder(true);
    registry
        .enableStompBrokerRelay("/topic", "/queue")
        .setRelayHost(host)
        .setRelayPort(port)
        // One connection for what the application itself sends, and one for each client.
        .setSystemLogin(login)
        .setSystemPasscode(passcode)
        .setClientLogin(login)
        .setClientPasscode(passcode)
        // With several instances of this application: where a user of another one is found.
        .setUserDestinationBroadcast("/topic/spring.unresolved-user-destinations")
        .setUserRegistryBroadcast("/topic/spring.user-registry");
  }

  @Override
  public void registerStompEndpoints(StompEndpointRegistry registry) {
    registry.addEndpoint("/ws");
    registry.addEndpoint("/sockjs").withSockJS();
  }
}
