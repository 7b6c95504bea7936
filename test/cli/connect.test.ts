import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { fromKysely } from '../../src/adapters/kysely.ts'
import { connect } from '../../src/cli/connect.ts'
import { databaseKinds } from './databases.ts'

describe('connect', () => {
  let folder: string

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'rowlock-connect-'))
  })
  afterEach(async () => {
    await rm(folder, { recursive: true })
  })

  for (const kind of databaseKinds) {
    it(`opens ${kind.name} by its URL`, async () => {
      const database = await kind.create()
      const db = await connect(database.url)
      expect((await sql<{ one: number }>`select 1 as one`.execute(db)).rows).toEqual([{ one: 1 }])
      await db.destroy()
      await database.drop()
    })
  }

  it('knows other names of the schemes', async () => {
    for (const [url, engine] of [
      ['postgresql://localhost/none', 'postgres'],
      ['POSTGRES://localhost/none', 'postgres'],
      ['mariadb://localhost/none', 'mysql'],
    ] as const) {
      const db = await connect(url)
      expect(fromKysely(db).engine).toBe(engine)
      await db.destroy()
    }
  })

  it('opens a SQLite file by any form of its path', async () => {
    const path = join(folder, 'app.db')
    for (const url of [`sqlite:${path}`, `file:${path}`, `file://${path}`, path]) {
      const db = await connect(url)
      const { rows } = await sql<{ file: string }>`pragma database_list`.execute(db)
      expect(rows).toMatchObject([{ file: path }])
      await db.destroy()
    }
  })

  it('says what it supports when it does not know the scheme', async () => {
    for (const url of ['oracle://user:secret@host/db', 'my_user:secret@host/db', 'app.txt', '', 'C:\\app.txt']) {
      const error = await connect(url).catch((reason) => reason)
      expect(error).toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(/use postgres:\/\/, postgresql:\/\/, mysql:\/\/, mariadb:\/\/, sqlite:PATH/),
      })
      expect(error.message).not.toContain('secret')
    }
  })

  it('refuses a malformed URL without showing its password', async () => {
    for (const url of ['postgres://user:secret@ho st:port/db', 'mysql://user:secret@host:port/db']) {
      const error = await connect(url).catch((reason) => reason)
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: 'the database URL is not well-formed' })
    }
  })

  it('refuses SQLite URLs with more than a path, which would become part of the name', async () => {
    for (const url of ['sqlite:', 'sqlite://host.db', `file:${folder}/app.db?mode=ro`]) {
      await expect(connect(url)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
  })

  it('says why a SQLite file cannot be opened', async () => {
    const db = await connect(`sqlite:${folder}/missing/app.db`)
    await expect(sql`select 1`.execute(db)).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringMatching(/cannot open the SQLite file .*app\.db: .*directory does not exist/),
    })
  })
})
