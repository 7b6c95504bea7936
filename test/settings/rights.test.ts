import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest'
import { createLocks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { connect, createDatabase, query, type TestConnection, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'

const servers = inject('servers').filter(({ engine }) => engine === 'postgres')

describe.each(servers)('row level security on $name', (server) => {
  let database: TestDatabase
  let owner: TestConnection
  let role: string
  let application: Connected

  beforeEach(async () => {
    database = await createDatabase(server)
    owner = await connect(database.url)
    const migrating = connectors.pg(database.url)
    await createLocks(migrating.adapter).migrate()
    await migrating.close()
    role = `rowlock_${randomBytes(6).toString('hex')}`
    await owner.query(`create role ${role} login password 'secret'`)
    await owner.query(`grant select, insert, update, delete on rowlock_locks, rowlock_slots, rowlock_marks to ${role}`)
    await owner.query('alter table rowlock_locks enable row level security')
    const url = new URL(database.url)
    url.username = role
    url.password = 'secret'
    application = connectors.pg(url.href)
  })

  afterEach(async () => {
    await application.close()
    await owner.close()
    await database.drop()
    await query(server.url, `drop role ${role}`)
  })

  const permit = (command: string, to = role) =>
    owner.query(
      `create policy may_${command} on rowlock_locks for ${command} to ${to}
       ${command === 'insert' ? '' : 'using (true)'} ${command === 'select' ? '' : 'with check (true)'}`,
    )

  it.each([
    [['select', 'insert'], 'UPDATE'],
    [['select', 'update'], 'INSERT'],
    [['insert', 'update'], 'SELECT'],
    [[], 'SELECT, INSERT, UPDATE'],
  ])('that permits %s alone is refused, and what is missing is said', async (permitted, missing) => {
    for (const command of permitted) await permit(command)
    await using locks = createLocks(application.adapter)
    const refused = { code: 'UNSUPPORTED', message: expect.stringContaining(`lets this role ${missing}:`) }
    await expect(locks.tryAcquire(freshName())).rejects.toMatchObject(refused)
    await expect(locks.acquire(freshName())).rejects.toMatchObject(refused)
    for (const command of ['select', 'insert', 'update'].filter((each) => !permitted.includes(each))) {
      await permit(command)
    }
    await (await locks.acquire(freshName())).release()
  })

  it('that permits all is fine, for everybody as for this role', async () => {
    await permit('all', 'public')
    await using locks = createLocks(application.adapter)
    await (await locks.acquire(freshName())).release()
  })
})
