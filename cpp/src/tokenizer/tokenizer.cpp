#include "tokenizer/tokenizer.h"

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/byte_pairs.h"
#include "tokenizer/sentence_pieces.h"

namespace glm {

namespace {

std::unique_ptr<Codec> open_codec(const TokenizerFile& file, const fs::path& directory) {
    const std::string& kind = file.name("kind");
    if (kind == "glm4" || kind == "glm4-0414" || kind == "glm45") return std::make_unique<BytePairs>(file);
    if (kind != "glm-chinese" && kind != "chatglm" && kind != "chatglm2" && kind != "chatglm3")
        fail("its kind is '", kind, "', which is not known here");
    const std::string& name = file.name("model");
    if (name.empty() || fs::path(name).filename() != name) fail("it names the vocabulary file '", name, "'");
    if (kind == "chatglm") return std::make_unique<LayoutPieces>(directory / name);
    return std::make_unique<SentencePieces>(directory / name);
}

}  // namespace

Tokenizer::Tokenizer(const fs::path& directory)
    : directory_(directory), file_(TokenizerFile::read(directory / TokenizerFile::kName)), splitter_(file_.added) {
    try {
        codec_ = open_codec(file_, directory);
        prefix_ = file_.list("prefix");
        suffix_ = file_.list("suffix");
        stop_ = file_.list("stop");
        file_.list("masks");
        for (const Id id : file_.list("special")) special_.insert(id);
        const std::vector<Id>& sizes = file_.list("size");
        if (sizes.size() != 2 || sizes[0] < 1 || sizes[1] < sizes[0]) throw Error("its sizes are none");
        piece_count_ = sizes[0];
        size_ = sizes[1];
    } catch (const UsageError&) {
        throw;
    } catch (const Error& error) {
        const std::string what = error.what(), where = (directory / TokenizerFile::kName).string();
        if (what.find(directory.string()) != std::string::npos) throw;
        fail(where, " is damaged (", what, "): export the model again");
    }
    for (const AddedToken& token : file_.added)
        if (token.has_own_id) added_[token.id] = &token;
    joins_with_blanks_ = kind() == "glm-chinese";  // as in PaddleNLP
}

std::vector<Id> Tokenizer::text_ids(std::string_view text, bool plain) const {
    std::vector<Id> ids;
    if (plain && joins_with_blanks_) {  // GLM (2021): nothing is cut out
        codec_->encode(text, ids);
        return ids;
    }
    for (const Splitter::Part& part : plain ? splitter_.split_others(text) : splitter_.split(text)) {
        if (part.token != nullptr)
            ids.push_back(part.token->id);
        else
            codec_->encode(part.text, ids);
    }
    return ids;
}

std::string Tokenizer::text_of(const std::vector<Id>& ids) const {
    std::string text;
    std::vector<Id> run;
    bool first = true;
    const auto add = [&](const std::string& part) {
        if (joins_with_blanks_ && !first) text += ' ';
        first = false;
        text += part;
    };
    const auto flush = [&] {
        if (!run.empty()) add(codec_->decode(run));
        run.clear();
    };
    for (const Id id : ids) {
        if (special_.count(id)) continue;
        if (const auto found = added_.find(id); found != added_.end()) {
            flush();
            add(found->second->text);
        } else if (id >= 0 && id < piece_count_) {
            run.push_back(id);
        }
    }
    flush();
    return text;
}

std::optional<Id> Tokenizer::added_id(std::string_view text) const {
    for (const AddedToken& token : file_.added)
        if (token.has_own_id && token.text == text) return token.id;
    return std::nullopt;
}

std::vector<Id> Tokenizer::build_inputs(const std::vector<Id>& ids) const {
    std::vector<Id> framed = prefix_;
    framed.insert(framed.end(), ids.begin(), ids.end());
    framed.insert(framed.end(), suffix_.begin(), suffix_.end());
    return framed;
}

}  // namespace glm
