import { describe, expect, it, vi } from 'vitest'
import type { Adapter } from '../../src/index.ts'

const load = async () => ({
  ...(await import('../../src/index.ts')),
  ...(await import('../../src/adapters/memory.ts')),
})

// As in an application that has rowlock by a dependency as well, or in a bundle.
const here = await load()
vi.resetModules()
const other = await load()

const classes = [
  'LockError',
  'LockTimeoutError',
  'QueueFullError',
  'DeadlockError',
  'LockLostError',
  'DatabaseError',
] as const

const errorsOf = ({
  LockError,
  LockTimeoutError,
  QueueFullError,
  DeadlockError,
  LockLostError,
  DatabaseError,
}: typeof here) => ({
  LockError: new LockError('UNSUPPORTED', 'no'),
  DeadlockError: new DeadlockError('job', 'it is held here'),
  LockTimeoutError: new LockTimeoutError('job', 10),
  QueueFullError: new QueueFullError('job', 10),
  LockLostError: new LockLostError('job', 'it ran out'),
  DatabaseError: new DatabaseError('other', 'no', {}),
})

describe('two copies of the package', () => {
  it('have classes of their own', () => {
    for (const name of classes) expect(other[name]).not.toBe(here[name])
    expect(other.MemoryDatabase).not.toBe(here.MemoryDatabase)
  })

  it.each(classes)('tell a %s of the other, and of their own, from all other errors', (name) => {
    for (const error of [errorsOf(other)[name], errorsOf(here)[name]]) {
      expect(error).toBeInstanceOf(Error)
      expect(classes.filter((each) => error instanceof here[each])).toEqual([...new Set(['LockError', name])])
      expect(classes.filter((each) => error instanceof other[each])).toEqual([...new Set(['LockError', name])])
    }
  })

  it('know subclasses of the other, and their own do not take in what is none of them', () => {
    class Mine extends here.LockTimeoutError {}
    class Theirs extends other.LockTimeoutError {}
    expect(new Mine('job', 10)).toBeInstanceOf(Mine)
    expect(new Mine('job', 10)).toBeInstanceOf(other.LockTimeoutError)
    expect(new Theirs('job', 10)).toBeInstanceOf(here.LockError)
    expect(new Theirs('job', 10)).not.toBeInstanceOf(Mine)
    expect(new here.LockTimeoutError('job', 10)).not.toBeInstanceOf(Mine)
  })

  it('take nothing else for an error of theirs', () => {
    const like = { name: 'LockError', code: 'LOCK_LOST', message: 'no' }
    for (const value of [null, undefined, 'LockError', like, Object.assign(new Error('no'), like), here.LockError]) {
      expect(value).not.toBeInstanceOf(here.LockError)
    }
  })

  it('show nothing of it in an error', () => {
    expect(Reflect.ownKeys(errorsOf(here).LockError).sort()).toEqual(['code', 'message', 'name', 'stack'])
  })

  it('know by an error of the other that the transaction was aborted', () => {
    expect(here.isTransactionAborted(new other.LockError('TRANSACTION_ABORTED', 'no'))).toBe(true)
    const aborted = new other.LockError('TRANSACTION_ABORTED', 'no')
    expect(here.isTransactionAborted(new other.LockLostError('job', 'no', { cause: aborted }))).toBe(false)
  })

  it("lock through each other's adapters, and guard each other's transactions", async () => {
    const database = new other.MemoryDatabase()
    await using locks = here.createLocks(other.fromMemory(database))
    await using theirs = other.createLocks(here.fromMemory(database))
    await using lease = await locks.acquire('job')
    expect(await theirs.tryAcquire('job')).toBeNull()
    await expect(theirs.acquire('job', { wait: 10 })).rejects.toBeInstanceOf(here.LockTimeoutError)
    await database.transaction(async (tx) => {
      await lease.guard(tx)
      await theirs.within(tx).acquire('another job')
      expect(await locks.tryAcquire('another job')).toBeNull()
    })
    await using next = await locks.acquire('another job')
    expect(next.isHeld()).toBe(true)
  })

  it('know what runs hold around a call, each for its own instances', async () => {
    await using locks = here.createLocks(other.fromMemory())
    await using theirs = other.createLocks(here.fromMemory())
    await locks.run('job', {}, (lease) =>
      theirs.run('job', {}, async (their) => {
        await locks.run('job', { reenter: true }, (same) => expect(same).toBe(lease))
        await theirs.run('job', { reenter: true }, (same) => expect(same).toBe(their))
        await expect(locks.acquire('job')).rejects.toBeInstanceOf(other.DeadlockError)
        await expect(theirs.acquire('job')).rejects.toBeInstanceOf(here.DeadlockError)
      }),
    )
  })

  it('take nothing else for an adapter', () => {
    const like = { engine: 'memory', database: new here.MemoryDatabase() } as Adapter<unknown>
    expect(() => here.createLocks(like)).toThrow('createLocks takes an adapter')
    expect(() => here.createLocks({ ...here.fromMemory() })).not.toThrow()
  })
})
