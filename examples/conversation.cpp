// SPDX-License-Identifier: MIT

// One session that takes turns, splits in two, goes back, and comes back from a file: conversation [MODEL]

#include <gpt2/gpt2.hpp>

#include <cstddef>
#include <filesystem>
#include <iostream>
#include <string_view>
#include <utility>
#include <vector>

namespace {

class Conversation {
public:
    Conversation(gpt2::Gpt2Model model, gpt2::Session session)
        : model_(std::move(model)), session_(std::move(session)) {}

    /// Reads @p text, and writes what follows as it comes.
    void turn(std::string_view text) {
        std::cout << "[" << text << "]" << std::flush;
        const std::vector<gpt2::TokenId> tokens = model_.tokenizer().encode(text);
        const gpt2::GenerationConfig config{
            .max_new_tokens = 16, .do_sample = true, .temperature = 0.7f, .top_k = 40, .seed = 42};
        const auto print = [](const gpt2::GeneratedToken& token) { // its text is whole UTF-8
            std::cout << token.text << std::flush;
            return gpt2::Flow::proceed;
        };
        const gpt2::GenerationResult result = session_.generate(tokens, config, print);
        session_.forward({&result.tokens.back(), 1}); // which was chosen, but not yet read
        std::cout << "\n  " << result.prompt_tokens << " tokens read and " << result.tokens.size()
                  << " written, " << session_.position() << " in the session\n";
    }

    [[nodiscard]] Conversation fork() const { return {model_, session_.fork()}; }
    [[nodiscard]] gpt2::Session& session() noexcept { return session_; }

private:
    gpt2::Gpt2Model model_;
    gpt2::Session session_;
};

} // namespace

int main(int argc, char** argv) {
    const auto model = gpt2::Gpt2Model::load(argc > 1 ? argv[1] : "models/novella-f16.safetensors");
    Conversation story(model, gpt2::Session(model));
    story.turn("There was once a poor woodcutter who");
    story.turn(" One evening his wife said to him,"); // nothing is read twice
    const std::size_t evening = story.session().position();

    Conversation other = story.fork(); // keys and values are copied, not computed again
    story.turn(" In the morning");
    other.turn(" In the night");

    const auto file = std::filesystem::temp_directory_path() / "gpt2_conversation.session";
    story.session().save(file);
    Conversation again(model, gpt2::Session::restore(model, file));
    again.turn(" And then"); // word for word what `story` writes now
    story.turn(" And then");
    std::filesystem::remove(file);

    story.session().truncate(evening); // as if the morning had never come
    story.turn(" In the night");
}
