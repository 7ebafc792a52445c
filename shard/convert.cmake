# The Hugging Face readers (into mw_shard) and marlin-convert. Included by shard/CMakeLists.txt.
set(MW_SHARD_CONVERT_SOURCES
    hf_json.c safetensors.c st_folder.c st_write.c hf_config.c hf_quant_config.c hf_model.c
    chunks.c finite.c quant.c quant_gptq.c quant_awq.c quant_ct.c quant_marlin.c rtn.c dense.c dequant.c)
# Loops over weights, written so that they vectorise.
set_source_files_properties(rtn.c finite.c PROPERTIES COMPILE_OPTIONS -O3)

add_executable(marlin-convert tools/marlin_convert.c tools/convert_model.c tools/convert_pipe.c tools/convert_text.c
               tools/convert_export.c tools/convert_export_config.c tools/convert_outdir.c)
target_compile_definitions(marlin-convert PRIVATE MW_VERSION="${PROJECT_VERSION}" MW_GIT_ID="${MW_GIT_ID}")
target_include_directories(marlin-convert SYSTEM PRIVATE ${HDF5_INCLUDE_DIRS})
target_link_libraries(marlin-convert PRIVATE mw_shard mw_text ${HDF5_C_LIBRARIES})
