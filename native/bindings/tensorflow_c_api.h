// What we use of TensorFlow's C API: ops.h, kernels.h, tf_tensor.h and tf_status.h, stable since
// TensorFlow 2.4. Declared here and looked up in the library that the process has loaded, so that
// nothing of TensorFlow is needed to build, and one binary serves every version.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct TF_Status;
struct TF_Tensor;
struct TF_OpDefinitionBuilder;
struct TF_ShapeInferenceContext;
struct TF_KernelBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;

enum TF_DataType : int { TF_FLOAT = 1, TF_DOUBLE = 2, TF_INT8 = 6, TF_BOOL = 10, TF_BFLOAT16 = 14 };
enum TF_Code : int { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8 };
}

namespace ostinato::tensorflow {

using ShapeFunction = void (*)(TF_ShapeInferenceContext*, TF_Status*);
using CreateKernel = void* (*)(TF_OpKernelConstruction*);
using ComputeKernel = void (*)(void* kernel, TF_OpKernelContext*);
using DeleteKernel = void (*)(void* kernel);

// name, result, parameters
#define OSTINATO_TF_FUNCTIONS(F)                                                                   \
  F(TF_NewStatus, TF_Status*, ())                                                                  \
  F(TF_DeleteStatus, void, (TF_Status*))                                                           \
  F(TF_SetStatus, void, (TF_Status*, TF_Code, const char* message))                                \
  F(TF_GetCode, TF_Code, (const TF_Status*))                                                       \
  F(TF_NewOpDefinitionBuilder, TF_OpDefinitionBuilder*, (const char* op))                          \
  F(TF_OpDefinitionBuilderAddAttr, void, (TF_OpDefinitionBuilder*, const char*))                   \
  F(TF_OpDefinitionBuilderAddInput, void, (TF_OpDefinitionBuilder*, const char*))                  \
  F(TF_OpDefinitionBuilderAddOutput, void, (TF_OpDefinitionBuilder*, const char*))                 \
  F(TF_OpDefinitionBuilderSetShapeInferenceFunction, void,                                         \
    (TF_OpDefinitionBuilder*, ShapeFunction))                                                      \
  F(TF_RegisterOpDefinition, void, (TF_OpDefinitionBuilder*, TF_Status*))                          \
  F(TF_ShapeInferenceContextSetUnknownShape, void, (TF_ShapeInferenceContext*, TF_Status*))        \
  F(TF_NewKernelBuilder, TF_KernelBuilder*,                                                        \
    (const char* op, const char* device, CreateKernel, ComputeKernel, DeleteKernel))               \
  F(TF_RegisterKernelBuilder, void, (const char* kernel, TF_KernelBuilder*, TF_Status*))           \
  F(TF_OpKernelConstruction_GetAttrSize, void,                                                     \
    (TF_OpKernelConstruction*, const char* attr, int32_t* list, int32_t* total, TF_Status*))       \
  F(TF_OpKernelConstruction_GetAttrInt64List, void,                                                \
    (TF_OpKernelConstruction*, const char* attr, int64_t* values, int n, TF_Status*))              \
  F(TF_OpKernelConstruction_Failure, void, (TF_OpKernelConstruction*, TF_Status*))                 \
  F(TF_OpKernelContext_Failure, void, (TF_OpKernelContext*, TF_Status*))                           \
  F(TF_NumInputs, int, (TF_OpKernelContext*))                                                      \
  F(TF_NumOutputs, int, (TF_OpKernelContext*))                                                     \
  F(TF_GetInput, void, (TF_OpKernelContext*, int, TF_Tensor**, TF_Status*))                        \
  F(TF_ExpectedOutputDataType, TF_DataType, (TF_OpKernelContext*, int))                            \
  F(TF_AllocateOutput, TF_Tensor*,                                                                 \
    (TF_OpKernelContext*, int, TF_DataType, const int64_t*, int rank, size_t bytes, TF_Status*))   \
  F(TF_DeleteTensor, void, (TF_Tensor*))                                                           \
  F(TF_TensorType, TF_DataType, (const TF_Tensor*))                                                \
  F(TF_NumDims, int, (const TF_Tensor*))                                                           \
  F(TF_Dim, int64_t, (const TF_Tensor*, int))                                                      \
  F(TF_TensorData, void*, (const TF_Tensor*))

// The functions, once they are found.
struct Api {
#define OSTINATO_TF_MEMBER(name, result, parameters) result(*name) parameters = nullptr;
  OSTINATO_TF_FUNCTIONS(OSTINATO_TF_MEMBER)
#undef OSTINATO_TF_MEMBER
};

}  // namespace ostinato::tensorflow
