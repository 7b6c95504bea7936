import { DatabaseError, isError, LockError } from '../base/errors.ts'

export function notMigrated(table: string, cause: unknown): LockError {
  return new LockError(
    'NOT_MIGRATED',
    `the table ${table} is missing or out of date: call locks.migrate(), or run "npx rowlock migrate --database-url ..."`,
    { cause },
  )
}

export function databaseError(
  failure: Exclude<DatabaseError['failure'], 'unavailable'>,
  error: unknown,
): DatabaseError {
  const advice = {
    conflict: 'the statement had no effect and may be repeated',
    connection: 'no answer from the database; whether the statement took effect is not known',
    other: 'the database refused the statement',
  }[failure]
  return new DatabaseError(failure, `${advice}: ${messageOf(error)}`, { cause: error })
}

/** The server takes no writes: for as long as it fails over, or until somebody sets it otherwise. */
export function readOnly(error: unknown): DatabaseError {
  return unavailable(
    'the database takes no writes here, and taking or releasing a lock is one. Either this server is read-only (a standby, or one that is failing over), or this session or transaction is: begin transactions READ WRITE, and set transaction_read_only (default_transaction_read_only) to off',
    error,
  )
}

/** Too many connections, a pool with none left, a disk or memory that is full. */
export function noRoom(error: unknown): DatabaseError {
  return unavailable('the database or the pool has no room at the moment, and nothing was changed', error)
}

/** The server was asked to end statements that take so long. */
export function cutShort(error: unknown): DatabaseError {
  return unavailable('the server ended the statement before it took effect, by a limit of its own or on request', error)
}

function unavailable(what: string, error: unknown): DatabaseError {
  return new DatabaseError('unavailable', `${what}: ${messageOf(error)}`, { cause: error })
}

/** Of adapters that run statements by themselves on connections that they do not see. */
export function mayNeverCommit(): DatabaseError {
  return new DatabaseError(
    'connection',
    'the statement ran in a transaction that somebody left open on a connection of the pool, or where autocommit is off, and may never be committed. Find who gives connections back without COMMIT or ROLLBACK, or with SET autocommit = 0',
    { cause: undefined },
  )
}

export function missingRight(table: string, error: unknown): DatabaseError {
  return new DatabaseError(
    'other',
    `this user lacks a right: rowlock needs SELECT, INSERT and UPDATE on ${table} and on the tables of slots, gates, waits and marks beside it, DELETE on the last two of them (purge also on the first two), on PostgreSQL EXECUTE on the functions rowlock_* there, and USAGE on the schema; migrate needs CREATE: ${messageOf(error)}`,
    { cause: error },
  )
}

/** An AggregateError, as of a host name with several addresses, has a code but no message. */
function messageOf(error: unknown): string {
  if (!isError(error)) return String(error)
  return error.message || String((error as { code?: unknown }).code ?? error.name)
}

export function transactionAborted(error: unknown): LockError {
  return new LockError(
    'TRANSACTION_ABORTED',
    `the transaction cannot go on; roll it back and retry all of it: ${messageOf(error)}`,
    { cause: error },
  )
}

export function noTransaction(verb: string): LockError {
  return new LockError(
    'INVALID_ARGUMENT',
    `${verb} needs the handle of an open transaction: outside of one it would protect nothing. Begin one, and pass that handle`,
  )
}
