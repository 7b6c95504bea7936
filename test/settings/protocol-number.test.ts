import { afterEach, describe, expect, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { recordEvents } from '../contract/harness.ts'
import { engines, freshName, type OpenEngine } from '../engines.ts'

const onTables = engines().filter(({ engine }) => engine !== 'memory')

describe.each(onTables)('tables of another protocol, on $name', (engine) => {
  let open: OpenEngine
  afterEach(() => open.close())

  it('are refused, in transactions too, and nothing is changed', async () => {
    open = await engine.open()
    const name = freshName()
    const before = createLocks(open.connected.adapter)
    await (await before.acquire(name)).release()
    await open.connected.sql("insert into rowlock_migrations (name) values ('protocol 2')")
    const locks = createLocks(open.connected.adapter)
    const refused = { code: 'UNSUPPORTED', message: expect.stringContaining('newer version of rowlock') }
    await expect(locks.tryAcquire(name)).rejects.toMatchObject(refused)
    await expect(locks.migrate()).rejects.toMatchObject(refused)
    if (engine.engine !== 'sqlite' && engine.connector !== 'pglite') {
      const within = open.connected.transaction((tx) => locks.within(tx).acquire(name))
      await expect(within).rejects.toMatchObject(refused)
    }
    await locks.close()
    await before.close()
  })

  it('are what they are if that cannot be asked, and a warning says so', async () => {
    open = await engine.open()
    const locks = createLocks(open.connected.adapter)
    const events = recordEvents(locks)
    // As for a user without the right to read it.
    await open.connected.sql('alter table rowlock_migrations rename to rowlock_renamed')
    const lease = await locks.acquire(freshName())
    expect(await lease.release()).toBe(true)
    expect(events.filter(({ type }) => type === 'error')).toEqual([])
    await locks.close()
  })
})
