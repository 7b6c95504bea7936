import { allSuites } from './all-suites.ts'

allSuites('Knex')
