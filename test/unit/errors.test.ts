import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import {
  DatabaseError,
  DeadlockError,
  isTransactionAborted,
  LockError,
  type LockErrorCode,
  LockLostError,
  LockTimeoutError,
} from '../../src/index.ts'

describe('errors', () => {
  const cause = new Error('the driver failed')
  const errors: [error: LockError, name: string, code: LockErrorCode][] = [
    [new LockError('UNSUPPORTED', 'no'), 'LockError', 'UNSUPPORTED'],
    [new LockTimeoutError('job', 1234.4, 'host:1'), 'LockTimeoutError', 'LOCK_TIMEOUT'],
    [new DeadlockError('job', 'it is held here'), 'DeadlockError', 'DEADLOCK'],
    [new LockLostError('job', 'it ran out', { cause }), 'LockLostError', 'LOCK_LOST'],
    [new DatabaseError('connection', 'no answer', { cause }), 'DatabaseError', 'DATABASE'],
  ]

  it.each(errors)('%s is a LockError, of its name and code', (error, name, code) => {
    expect(error).toBeInstanceOf(LockError)
    expect(error).toBeInstanceOf(Error)
    expect({ name: error.name, code: error.code }).toEqual({ name, code })
    expect(String(error)).toBe(`${name}: ${error.message}`)
    expect(error.stack).toContain('errors.test.ts')
  })

  it('keep what led to them', () => {
    expect(new LockError('DATABASE', 'no', { cause }).cause).toBe(cause)
    expect(new LockLostError('job', 'it ran out', { cause, result: 7 })).toMatchObject({
      cause,
      result: 7,
      lock: 'job',
    })
    expect(new DatabaseError('other', 'no', { cause })).toMatchObject({ cause, failure: 'other' })
    expect('cause' in new LockError('DATABASE', 'no')).toBe(false)
  })

  it('name the lock so that odd names can be told apart', () => {
    expect(new LockTimeoutError('a "b" ', 1234.4, 'host:1').message).toBe(
      'lock "a \\"b\\" " was not free within 1234 ms; it is held by host:1',
    )
    expect(new LockTimeoutError('job', 10).message).toBe('lock "job" was not free within 10 ms')
    expect(new DeadlockError('job', 'it is held here').message).toBe(
      'the wait for the lock "job" would never end: it is held here',
    )
    expect(new LockLostError('job', 'it ran out').message).toBe('the lease on "job" is lost: it ran out')
  })
})

describe('isTransactionAborted', () => {
  const driver = (fields: object) => Object.assign(new Error('failed'), fields)

  it('knows what the drivers say when a transaction may be retried', () => {
    const aborted = [
      { code: '40001' },
      { code: '40P01' },
      { errno: 1213, code: 'ER_LOCK_DEADLOCK' },
      { errno: 1205, code: 'ER_LOCK_WAIT_TIMEOUT' },
      { errno: 1020, code: 'ER_CHECKREAD' },
      { code: 'SQLITE_BUSY' },
      { code: 'SQLITE_BUSY_SNAPSHOT' },
      { code: 'SQLITE_LOCKED' },
      { code: 'ERR_SQLITE_ERROR', errcode: 5 },
      { code: 'ERR_SQLITE_ERROR', errcode: 517 },
    ]
    for (const fields of aborted) expect(isTransactionAborted(driver(fields)), JSON.stringify(fields)).toBe(true)
    expect(isTransactionAborted(new LockError('TRANSACTION_ABORTED', 'retry'))).toBe(true)
  })

  it('looks at causes, as ORMs wrap what the driver threw', () => {
    const wrapped = new Error('the query failed', { cause: new Error('again', { cause: driver({ code: '40001' }) }) })
    expect(isTransactionAborted(wrapped)).toBe(true)
  })

  it('looks at errors of another realm, as those of Node are in Jest', () => {
    const error = runInNewContext('Object.assign(new Error("failed"), { code: "ERR_SQLITE_ERROR", errcode: 5 })')
    expect(error).not.toBeInstanceOf(Error)
    expect(isTransactionAborted(error)).toBe(true)
  })

  it('does not take a lost lease, or anything else, for it', () => {
    const others = [
      new LockLostError('job', 'taken over', { cause: driver({ code: '40001' }) }),
      new LockError('DATABASE', 'no'),
      new DeadlockError('job', 'it is held here'),
      driver({ code: '23505' }),
      driver({ code: 'ECONNRESET' }),
      driver({ errno: 1062 }),
      driver({ code: 'ERR_SQLITE_ERROR', errcode: 19 }),
      driver({ code: 'SQLITE_CONSTRAINT' }),
      'SQLITE_BUSY',
      { code: '40001' },
      undefined,
      null,
    ]
    for (const error of others) expect(isTransactionAborted(error), String(error)).toBe(false)
  })
})
