import { isError } from '../base/errors.ts'

/** What a driver throws when it has no word from the server: a plain Error, or one with a system error code. */
export function isConnectionFailure(error: unknown): boolean {
  if (!isError(error) || error instanceof TypeError || error instanceof RangeError) return false
  const code = (error as { code?: unknown }).code
  return (
    code === undefined ||
    (typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+|CONNECT(ION)?_\w+|ERR_(STREAM|SOCKET)_\w+)$/.test(code))
  )
}

/** Drivers and ORMs whose pool had no connection to give in time: nothing was sent. pg and mysql2 tell by the message alone. */
const POOL_TIMEOUTS = {
  names: ['KnexTimeoutError', 'SequelizeConnectionAcquireTimeoutError'],
  codes: ['P2024', 'P2037', 'CONNECT_TIMEOUT', 'ER_GET_CONNECTION_TIMEOUT'],
  message: /^(timeout exceeded when trying to connect|Queue limit reached\.|No connections available\.)$/,
}

/** Whether an error, or one of its causes, says that the pool had no connection to give. */
export function isPoolTimeout(error: unknown): boolean {
  for (let each = error; isError(each); each = each.cause) {
    if (POOL_TIMEOUTS.names.includes(each.name) || POOL_TIMEOUTS.message.test(each.message)) return true
    if (POOL_TIMEOUTS.codes.includes(String((each as { code?: unknown }).code))) return true
  }
  return false
}
