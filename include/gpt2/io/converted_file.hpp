// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/io/mapped_file.hpp"
#include "gpt2/io/safetensors.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

/// @file
/// What every reader of a converted model's file asks first: is it one, and of a version that is known here?

namespace gpt2::detail {

/// @throws FormatError unless the file's metadata has that string
[[nodiscard]] GPT2_COLD inline const std::string& converted_metadata(const SafetensorsFile& file,
                                                                     std::string_view key) {
    const auto it = file.metadata().find(key);
    if (it == file.metadata().end()) {
        throw FormatError(concat(detail::quoted(std::string_view(file.name()), 4096), ": expected ",
                                 detail::quoted(key), " in the metadata, found no such key"));
    }
    return it->second;
}

/// @throws FormatError unless @p file has the format that this library reads
GPT2_COLD inline void check_converted_version(const SafetensorsFile& file) {
    constexpr std::string_view version = "1";
    constexpr std::string_view layout = "panels-32";
    const std::string where = detail::quoted(std::string_view(file.name()), 4096);
    const auto found = file.metadata().find("gpt2.format_version");
    if (found == file.metadata().end()) {
        throw FormatError(
            concat(where, ": expected a converted model (tools/convert_weights.py makes one), found a ",
                   "safetensors file without \"gpt2.format_version\" (a Hugging Face model is loaded by its ",
                   "directory)"));
    }
    if (found->second != version) {
        throw FormatError(concat(where, ": expected format version ", version, ", found ",
                                 detail::quoted(std::string_view(found->second)),
                                 " (made by another version of the converter: convert it again)"));
    }
    if (const std::string& name = converted_metadata(file, "gpt2.layout"); name != layout) {
        throw FormatError(concat(where, ": \"gpt2.layout\": expected ", detail::quoted(layout), ", found ",
                                 detail::quoted(std::string_view(name))));
    }
}

/// Maps a file. One who names a file of a Hugging Face directory means the directory.
/// @throws FileError, FormatError
[[nodiscard]] GPT2_COLD inline SafetensorsFile open_converted(const std::filesystem::path& path) {
    const auto file = std::make_shared<const MappedFile>(MappedFile::open(path));
    if (file->text().substr(0, 9).ends_with('{')) {
        return SafetensorsFile::from_bytes(file->bytes(), path_text(path), file);
    }
    const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
    throw FormatError(concat(quoted_path(path),
                             ": expected the file of a converted model, found another file (a Hugging Face ",
                             "model is loaded by its directory: give ", quoted_path(parent), ")"));
}

} // namespace gpt2::detail
