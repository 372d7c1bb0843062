/* A program of its own with Python inside: its thread comes from C, and enters Python by PyGILState. */
#include <Python.h>
#include <pthread.h>

static void *call(void *name) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *module = PyImport_ImportModule("__main__");
    PyObject *result = module ? PyObject_CallMethod(module, (char *)name, NULL) : NULL;
    if (result == NULL) {
        PyErr_Clear(); /* as a host would that goes on without */
    }
    Py_XDECREF(result);
    Py_XDECREF(module);
    PyGILState_Release(state);
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t worker;
    Py_Initialize();
    if (count != 2 || PyRun_SimpleString(arguments[1]) != 0) {
        return 1;
    }
    PyThreadState *saved = PyEval_SaveThread();
    pthread_create(&worker, NULL, call, "work");
    call("serve");
    pthread_join(worker, NULL);
    PyEval_RestoreThread(saved);
    return Py_FinalizeEx() == 0 ? 0 : 2;
}
