# A file as an array of bytes in the program. Included: mw_embed(target file symbol) adds it to a target, as
#   const unsigned char symbol[]; const size_t symbol_n;   (one zero byte stands behind, not counted)
# Run as a script (cmake -DIN= -DOUT= -DSYMBOL= -P), it writes the source. Needs no tool but CMake.
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ "${IN}" bytes HEX)
  string(LENGTH "${bytes}" n)
  math(EXPR n "${n} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
  file(WRITE "${OUT}" "#include <stddef.h>\nextern const unsigned char ${SYMBOL}[];\nextern const size_t ${SYMBOL}_n;\n"
                      "const unsigned char ${SYMBOL}[] = {\n${bytes}0};\nconst size_t ${SYMBOL}_n = ${n};\n")
  return()
endif()

function(mw_embed target file symbol)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -DIN=${CMAKE_CURRENT_SOURCE_DIR}/${file} -DOUT=${out} -DSYMBOL=${symbol}
            -P ${PROJECT_SOURCE_DIR}/launch/cmake/EmbedFile.cmake
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file} ${PROJECT_SOURCE_DIR}/launch/cmake/EmbedFile.cmake VERBATIM)
  target_sources(${target} PRIVATE ${out})
endfunction()
