package io.fanlight.peer;

import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.messaging.simp.config.ChannelRegistration;
import org.springframework.messaging.simp.config.MessageBrokerRegistry;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.web.socket.config.annotation.EnableWebSocketMessageBroker;
import org.springframework.web.socket.config.annotation.StompEndpointRegistry;
import org.springframework.web.socket.config.annotation.WebSocketMessageBrokerConfigurer;
import org.springframework.web.socket.config.annotation.WebSocketTransportRegistration;

/**
 * The endpoint and the simple broker. Pools keep Spring's default of twice the cores, which the
 * reference names as right for work that does not block.
 */
@Configuration
@EnableWebSocketMessageBroker
class BrokerConfiguration implements WebSocketMessageBrokerConfigurer {
    /** More than any scenario sends at once, so that what is measured is never a refusal. */
    private static final int BUFFER_BYTES = 64 * 1024 * 1024;

    private static final int MESSAGE_BYTES = 1024 * 1024;
    private static final int SEND_MS = 60_000;

    private final TokenInterceptor tokens;

    BrokerConfiguration(TokenInterceptor tokens) {
        this.tokens = tokens;
    }

    @Override
    public void registerStompEndpoints(StompEndpointRegistry registry) {
        registry.addEndpoint("/ws").setAllowedOriginPatterns("*");
    }

    @Override
    public void configureMessageBroker(MessageBrokerRegistry registry) {
        registry.enableSimpleBroker("/topic", "/queue")
                .setHeartbeatValue(new long[] {20_000, 20_000})
                .setTaskScheduler(beats());
        registry.setApplicationDestinationPrefixes("/app");
    }

    @Override
    public void configureClientInboundChannel(ChannelRegistration registration) {
        registration.interceptors(tokens);
    }

    @Override
    public void configureWebSocketTransport(WebSocketTransportRegistration registration) {
        registration
                .setMessageSizeLimit(MESSAGE_BYTES)
                .setSendBufferSizeLimit(BUFFER_BYTES)
                .setSendTimeLimit(SEND_MS);
    }

    @Bean
    ThreadPoolTaskScheduler beats() {
        var scheduler = new ThreadPoolTaskScheduler();
        scheduler.setPoolSize(1);
        scheduler.setThreadNamePrefix("beats-");
        return scheduler;
    }
}
